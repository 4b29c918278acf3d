// philox for CPU tensors: checks and threads. The rounds are in kernels/csrc/philox.h.
#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor philox(int64_t seed, int64_t stream, Tensor ids, int64_t n) {
  STD_TORCH_CHECK(ids.dim() == 1 && n >= 0, "philox: expected ids of one dimension and n >= 0");
  ids = torch::stable::contiguous(ids);
  const int64_t blocks = (n + 3) / 4;
  Tensor words = torch::stable::new_empty(ids, {ids.numel(), n});
  int64_t* out = words.mutable_data_ptr<int64_t>();
  const Philox work{static_cast<uint64_t>(seed), static_cast<uint32_t>(stream), ids.const_data_ptr<int64_t>(), n};
  static PhiloxBlocks* const body = FASTMIM_CHOOSE(philox_blocks);
  // A smaller task than about 4,096 blocks costs more to start than to run.
  torch::stable::parallel_for(0, ids.numel() * blocks, 4096, [&](int64_t begin, int64_t end) {
    body(work, begin, end, out + begin / blocks * n + begin % blocks * 4);
  });
  return words;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("philox", TORCH_BOX(&fastmim::philox)); }
