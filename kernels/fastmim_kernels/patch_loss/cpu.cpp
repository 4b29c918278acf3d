// patch_loss for CPU tensors: checks, threads and the final sum. The arithmetic is in cpu_body.cpp.
#include <optional>
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor> patch_loss(Tensor pred, Tensor images, Tensor rows, int64_t patch_size, Tensor mean,
                                      Tensor std, bool norm_pix, int64_t loss_, double alpha, double gamma,
                                      bool channels_first, std::optional<double> grad_scale) {
  STD_TORCH_CHECK((pred.dim() == 2 || pred.dim() == 3) && images.dim() == 4 && rows.dim() == 1 && patch_size > 0,
                  "patch_loss: wrong number of dimensions");
  const bool every = pred.dim() == 3;
  if (!every) pred = torch::stable::contiguous(pred);
  Tensor grad = grad_scale ? torch::stable::empty_like(pred) : torch::stable::new_empty(pred, {0});
  if (grad_scale && every) {
    torch::stable::zero_(grad);
    // No gradient can have the strides of predictions that overlap or have gaps.
    if (!pred.strides().equals(grad.strides())) pred = torch::stable::clone(pred);
  }
  images = torch::stable::contiguous(images);
  rows = torch::stable::contiguous(rows);
  mean = torch::stable::contiguous(mean);
  std = torch::stable::contiguous(std);
  const int64_t n = rows.numel(), channels = images.size(3), values = patch_size * patch_size * channels;
  const int64_t patches = images.size(1) / patch_size * (images.size(2) / patch_size);
  const int64_t available = images.size(0) * patches;
  STD_TORCH_CHECK((every ? pred.size(0) == images.size(0) && pred.size(1) == patches : pred.size(0) == n) &&
                      pred.size(every + 1) == values && type_of(pred) != Type::u8,
                  "patch_loss: pred does not fit");
  STD_TORCH_CHECK(mean.numel() == channels && std.numel() == channels,
                  "patch_loss: mean and std need one value per channel");
  const int64_t* index = rows.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < available, "patch_loss: rows[", i, "] is ", index[i],
                    ", but the images have ", available, " patches");
  }
  std::vector<char> seen(every ? available : 0);
  for (int64_t i = 0; every && i < n; ++i) {
    STD_TORCH_CHECK(!seen[index[i]]++, "patch_loss: patch ", index[i], " is in rows twice");
  }

  std::vector<float> scale(values), shift(values);
  for (int64_t i = 0; i < values; ++i) {
    const float m = mean.const_data_ptr<float>()[i % channels], s = std.const_data_ptr<float>()[i % channels];
    scale[i] = 1.0f / (255.0f * s);
    shift[i] = -m / s;
  }
  Tensor loss = torch::stable::new_empty(pred, {}, torch::headeronly::ScalarType::Float);
  const PatchLoss work{
      .in = {pred.const_data_ptr(),
             type_of(pred),
             images.const_data_ptr(),
             type_of(images),
             {images.size(1), images.size(2), channels, patch_size},
             scale.data(),
             shift.data()},
      .rows = index,
      .grad = grad_scale ? grad.mutable_data_ptr() : nullptr,
      .every = every,
      .image_stride = every ? pred.stride(0) : 0,
      .row_stride = pred.stride(every),
      .value_stride = pred.stride(every + 1),
      .norm_pix = norm_pix,
      .channels_first = channels_first,
      .loss = static_cast<ElementLoss>(loss_),
      .focal = {static_cast<float>(alpha), static_cast<float>(gamma)},
      .grad_scale = static_cast<float>(grad_scale.value_or(0)),
  };
  std::vector<double> sums(n);
  static PatchLossRows* const body = FASTMIM_CHOOSE(patch_loss_rows);
  // A smaller task than about 16,000 values costs more to start than to run.
  const int64_t grain = 1 + 16384 / (values + 1);
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  double total = 0;
  for (double sum : sums) total += sum;
  const double count = static_cast<double>(n) * static_cast<double>(values);
  *loss.mutable_data_ptr<float>() = count > 0 ? static_cast<float>(total / count) : 0.0f;
  return {loss, grad};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("patch_loss", TORCH_BOX(&fastmim::patch_loss)); }
