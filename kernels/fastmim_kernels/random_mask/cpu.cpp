// random_mask for CPU tensors: checks and threads. The selection is in cpu_body.cpp.
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor random_mask(int64_t seed, int64_t stream, Tensor ids, int64_t num_patches, int64_t num_keep, bool raster) {
  STD_TORCH_CHECK(ids.dim() == 1, "random_mask: expected ids of one dimension");
  STD_TORCH_CHECK(0 < num_keep && num_keep <= num_patches && num_patches < int64_t{1} << 31,
                  "random_mask: expected 0 < num_keep <= num_patches < 2**31, got ", num_keep, " and ", num_patches);
  ids = torch::stable::contiguous(ids);
  Tensor order = torch::stable::new_empty(ids, {ids.numel(), num_patches});
  const RandomMask work{
      .seed = static_cast<uint64_t>(seed),
      .stream = static_cast<uint32_t>(stream),
      .ids = ids.const_data_ptr<int64_t>(),
      .num_patches = num_patches,
      .num_keep = num_keep,
      .raster = raster,
      .out = order.mutable_data_ptr<int64_t>(),
  };
  static RandomMaskRows* const body = FASTMIM_CHOOSE(random_mask_rows);
  // A smaller task than about 8,192 patches costs more to start than to run.
  torch::stable::parallel_for(0, ids.numel(), 1 + 8192 / num_patches, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(num_patches) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  return order;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("random_mask", TORCH_BOX(&fastmim::random_mask)); }
