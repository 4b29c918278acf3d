// low_pass for CPU tensors: checks, tables and threads. The arithmetic is in cpu_body.cpp.
#include <memory>
#include <optional>
#include <vector>

#include "cpu_body.h"
#include "cpu_tables.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor low_pass(Tensor images, std::optional<Tensor> rows, int64_t patch_size, Tensor mean, Tensor std, double radius,
                bool official, bool) {
  STD_TORCH_CHECK(images.dim() == 4 && patch_size > 0 && radius >= 1,
                  "low_pass: expected images of 4 dimensions, patch_size above 0 and radius at least 1");
  images = torch::stable::contiguous(images);
  mean = torch::stable::contiguous(mean);
  std = torch::stable::contiguous(std);
  const int64_t batch = images.size(0), height = images.size(1), width = images.size(2), channels = images.size(3);
  STD_TORCH_CHECK(height > 0 && width > 0 && height % patch_size == 0 && width % patch_size == 0,
                  "low_pass: the images cannot be cut into whole patches");
  STD_TORCH_CHECK(mean.numel() == channels && std.numel() == channels,
                  "low_pass: mean and std need one value per channel");
  const int64_t patches = batch * (height / patch_size) * (width / patch_size);
  const auto wanted = std::make_unique<bool[]>(patches);
  for (int64_t i = 0; i < patches; ++i) wanted[i] = !rows;
  if (rows) {
    const Tensor index = torch::stable::contiguous(*rows);
    for (int64_t i = 0; i < index.numel(); ++i) {
      const int64_t row = index.const_data_ptr<int64_t>()[i];
      STD_TORCH_CHECK(row >= 0 && row < patches, "low_pass: rows[", i, "] is ", row, ", but the images have ", patches,
                      " patches");
      wanted[row] = true;
    }
  }

  std::vector<float> scale(width * channels), shift(width * channels), offset(width * channels);
  for (int64_t i = 0; i < width * channels; ++i) {
    const float m = mean.const_data_ptr<float>()[i % channels], s = std.const_data_ptr<float>()[i % channels];
    scale[i] = 1.0f / (255.0f * s);
    shift[i] = -m / s;
    offset[i] = m / s;
  }
  const LowPassTables tables(height, width, radius, official);
  Tensor out = torch::stable::new_empty(images, {batch, height, width, channels}, torch::headeronly::ScalarType::Float);
  LowPass work{};
  work.images = {height, width, channels, patch_size};
  work.source = images.const_data_ptr();
  work.source_type = type_of(images);
  work.scale = scale.data();
  work.shift = shift.data();
  work.mean = offset.data();
  work.wanted = wanted.get();
  work.out = out.mutable_data_ptr<float>();
  tables.lend(work);
  static LowPassImages* const body = FASTMIM_CHOOSE(low_pass_images);
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(low_pass_scratch(work));
    body(work, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("low_pass", TORCH_BOX(&fastmim::low_pass)); }
