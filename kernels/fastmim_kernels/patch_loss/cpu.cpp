// patch_loss for CPU tensors: checks, threads and the final sum; the arithmetic is in cpu_body.cpp.
#include <optional>
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor> patch_loss(Tensor pred, Tensor images, Tensor rows, int64_t patch_size, Tensor mean,
                                      Tensor std, bool norm_pix, bool l1, std::optional<double> grad_scale) {
  STD_TORCH_CHECK(pred.dim() == 2 && images.dim() == 4 && rows.dim() == 1 && patch_size > 0,
                  "patch_loss: wrong number of dimensions");
  pred = torch::stable::contiguous(pred);
  images = torch::stable::contiguous(images);
  rows = torch::stable::contiguous(rows);
  mean = torch::stable::contiguous(mean);
  std = torch::stable::contiguous(std);
  const int64_t n = pred.size(0), channels = images.size(3), values = patch_size * patch_size * channels;
  const int64_t available = images.size(0) * (images.size(1) / patch_size) * (images.size(2) / patch_size);
  STD_TORCH_CHECK(pred.size(1) == values && rows.numel() == n && type_of(pred) != Type::u8,
                  "patch_loss: pred does not fit");
  STD_TORCH_CHECK(mean.numel() == channels && std.numel() == channels,
                  "patch_loss: mean and std need one value per channel");
  const int64_t* index = rows.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < available, "patch_loss: rows[", i, "] is ", index[i],
                    ", but the images have ", available, " patches");
  }

  std::vector<float> scale(values), shift(values);
  for (int64_t i = 0; i < values; ++i) {
    const float m = mean.const_data_ptr<float>()[i % channels], s = std.const_data_ptr<float>()[i % channels];
    scale[i] = 1.0f / (255.0f * s);
    shift[i] = -m / s;
  }
  Tensor grad = grad_scale ? torch::stable::empty_like(pred) : torch::stable::new_empty(pred, {0});
  Tensor loss = torch::stable::new_empty(pred, {}, torch::headeronly::ScalarType::Float);
  const PatchLoss work{
      .pred = pred.const_data_ptr(),
      .pred_type = type_of(pred),
      .images = images.const_data_ptr(),
      .image_type = type_of(images),
      .rows = index,
      .scale = scale.data(),
      .shift = shift.data(),
      .grad = grad_scale ? grad.mutable_data_ptr() : nullptr,
      .height = images.size(1),
      .width = images.size(2),
      .channels = channels,
      .patch_size = patch_size,
      .norm_pix = norm_pix,
      .l1 = l1,
      .grad_scale = static_cast<float>(grad_scale.value_or(0)),
  };
  std::vector<double> sums(n);
  static PatchLossRows* const body = FASTMIM_CHOOSE(patch_loss_rows);
  // A task below about 16,000 values costs more to hand out than to do.
  const int64_t grain = 1 + 16384 / (values + 1);
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  double total = 0;
  for (double sum : sums) total += sum;
  const double count = static_cast<double>(n) * static_cast<double>(values);
  *loss.mutable_data_ptr<float>() = n ? static_cast<float>(total / count) : 0.0f;
  return {loss, grad};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("patch_loss", TORCH_BOX(&fastmim::patch_loss)); }
