// patch_gather for CPU tensors: checks and threads. The arithmetic is in cpu_body.cpp.
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor patch_gather(Tensor images, Tensor ids, int64_t patch_size, Tensor mean, Tensor std,
                    torch::headeronly::ScalarType dtype, int64_t token_size, int64_t columns) {
  STD_TORCH_CHECK(images.dim() == 4 && images.size(3) > 0 && ids.dim() == 2 && patch_size > 0,
                  "patch_gather: wrong number of dimensions, or no channels");
  images = torch::stable::contiguous(images);
  ids = torch::stable::contiguous(ids);
  mean = torch::stable::contiguous(mean);
  std = torch::stable::contiguous(std);
  const Images shape{images.size(1), images.size(2), images.size(3), patch_size};
  STD_TORCH_CHECK(token_size > 0 && patch_size % token_size == 0 && columns > 0 && ids.size(1) % columns == 0,
                  "patch_gather: tokens do not divide patches, or rows of them the patches");
  const TokenMap map{shape, token_size, columns};
  const int64_t n = ids.numel(), values = values_of(shape), strip = strip_of(map), available = patches_of(shape);
  STD_TORCH_CHECK(ids.size(0) == images.size(0), "patch_gather: ids need one row per image");
  STD_TORCH_CHECK(mean.numel() == shape.channels && std.numel() == shape.channels,
                  "patch_gather: mean and std need one value per channel");
  const int64_t* index = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < available, "patch_gather: ids[", i / ids.size(1), ", ",
                    i % ids.size(1), "] is ", index[i], ", but an image has ", available, " patches");
  }

  std::vector<float> means(strip), stds(strip);
  const float *m = mean.const_data_ptr<float>(), *s = std.const_data_ptr<float>();
  for (int64_t i = 0; i < strip; i += shape.channels) {
    for (int64_t c = 0; c < shape.channels; ++c) means[i + c] = m[c], stds[i + c] = s[c];
  }
  const int64_t tokens = ids.size(1) * strips_of(map) * strips_of(map);
  Tensor out =
      torch::stable::new_empty(images, {ids.size(0), tokens, token_size * token_size * shape.channels}, dtype);
  const PatchGather work{
      .map = map,
      .images = images.const_data_ptr(),
      .image_type = type_of(images),
      .ids = index,
      .num_ids = ids.size(1),
      .mean = means.data(),
      .std = stds.data(),
      .out = out.mutable_data_ptr(),
      .out_type = type_of(out),
  };
  STD_TORCH_CHECK(work.out_type != Type::u8, "patch_gather: expected a floating result");
  static PatchGatherRows* const body = FASTMIM_CHOOSE(patch_gather_rows);
  // A smaller task than about 16,000 values costs more to start than to run.
  torch::stable::parallel_for(0, n, 1 + 16384 / (values + 1), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("patch_gather", TORCH_BOX(&fastmim::patch_gather)); }
