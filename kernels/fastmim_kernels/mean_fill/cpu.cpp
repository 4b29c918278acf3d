// mean_fill for CPU tensors: checks and threads. The arithmetic is in cpu_body.cpp.
#include <optional>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor mean_fill(Tensor images, std::optional<Tensor> hidden, Tensor mean, Tensor std,
                 torch::headeronly::ScalarType dtype) {
  STD_TORCH_CHECK(images.dim() == 4, "mean_fill: wrong number of dimensions");
  images = torch::stable::contiguous(images);
  mean = torch::stable::contiguous(mean);
  std = torch::stable::contiguous(std);
  const int64_t batch = images.size(0), channels = images.size(3), line = images.size(2) * channels;
  STD_TORCH_CHECK(mean.numel() == channels && std.numel() == channels,
                  "mean_fill: mean and std need one value per channel");
  if (hidden) {
    hidden = torch::stable::contiguous(*hidden);
    check_cells("mean_fill", *hidden, images);
  }

  std::vector<float> means(line), stds(line);
  for (int64_t i = 0; i < line; ++i) {
    means[i] = mean.const_data_ptr<float>()[i % channels];
    stds[i] = std.const_data_ptr<float>()[i % channels];
  }
  Tensor out = torch::stable::new_empty(images, {batch, images.size(1), images.size(2), channels}, dtype);
  const MeanFill work{
      .images = images.const_data_ptr(),
      .image_type = type_of(images),
      .hidden = hidden ? hidden->const_data_ptr<bool>() : nullptr,
      .mean = means.data(),
      .std = stds.data(),
      .out = out.mutable_data_ptr(),
      .out_type = type_of(out),
      .height = images.size(1),
      .width = images.size(2),
      .channels = channels,
      .rows = hidden ? hidden->size(1) : 1,
      .columns = hidden ? hidden->size(2) : 1,
  };
  STD_TORCH_CHECK(work.out_type != Type::u8, "mean_fill: expected a floating result");
  static MeanFillImages* const body = FASTMIM_CHOOSE(mean_fill_images);
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> lines(work.height);
    std::vector<float> scratch(11 * line);
    body(work, begin, end, lines.data(), scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("mean_fill", TORCH_BOX(&fastmim::mean_fill)); }
