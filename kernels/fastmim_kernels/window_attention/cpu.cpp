// window_attention for CPU tensors: threads. The arithmetic is in cpu_body.cpp.
#include "window_tensors.h"

namespace fastmim {
namespace {

Tensor window_attention(Tensor qkv, Tensor codes, Tensor table, int64_t num_heads, std::vector<int64_t> window,
                        std::vector<int64_t> shift, int64_t origin, double scale) {
  qkv = torch::stable::contiguous(qkv);
  codes = torch::stable::contiguous(codes);
  table = torch::stable::contiguous(table);
  WindowAttention work = window_attention_of(qkv, codes, table, num_heads, window, shift, origin, scale);
  Tensor out = torch::stable::new_empty(qkv, {qkv.size(0), qkv.size(1), qkv.size(2), num_heads * work.dim});
  work.out = out.mutable_data_ptr();
  static WindowAttentionItems* const body = FASTMIM_CHOOSE(window_attention_items);
  // All heads of a window are in one task, since their tokens share cache lines. A smaller task than about 64 x 64
  // pairs costs more to start than to run.
  const int64_t grain = std::max(num_heads, 4096 / (tokens_of(work) * tokens_of(work)));
  torch::stable::parallel_for(0, qkv.size(0) * windows_of(work) * num_heads, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(window_attention_scratch(work));
    body(work, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("window_attention", TORCH_BOX(&fastmim::window_attention));
}
