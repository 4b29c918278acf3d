// window_attention_backward for CPU tensors: threads and the sum of the tables. The arithmetic is in cpu_body.cpp.
#include <tuple>

#include "../window_attention/window_tensors.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor> window_attention_backward(Tensor grad, Tensor qkv, Tensor codes, Tensor table,
                                                     int64_t num_heads, std::vector<int64_t> window,
                                                     std::vector<int64_t> shift, int64_t origin, double scale) {
  grad = torch::stable::contiguous(grad);
  qkv = torch::stable::contiguous(qkv);
  codes = torch::stable::contiguous(codes);
  table = torch::stable::contiguous(table);
  Tensor qkv_grad = torch::stable::empty_like(qkv), table_grad = torch::stable::empty_like(table);
  const WindowAttentionBackward work{
      .forward = window_attention_of(qkv, codes, table, num_heads, window, shift, origin, scale),
      .grad = grad.const_data_ptr(),
      .grad_type = type_of(grad),
      .qkv_grad = qkv_grad.mutable_data_ptr(),
  };
  STD_TORCH_CHECK(grad.numel() * 3 == qkv.numel() && work.grad_type != Type::u8,
                  "window_attention_backward: grad does not fit");
  // The number of parts does not depend on the number of threads, so that sums always have the same order. Each part
  // has its own tables. All heads of a window are in one part, since their tokens share cache lines.
  const int64_t windows = qkv.size(0) * windows_of(work.forward), parts = std::min<int64_t>(windows, 32);
  const int64_t numel = table.numel();
  std::vector<float> tables(parts * numel);
  static WindowAttentionGradients* const body = FASTMIM_CHOOSE(window_attention_gradients);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(window_attention_scratch(work.forward));
    for (int64_t part = begin; part < end; ++part) {
      body(work, part * windows / parts * num_heads, (part + 1) * windows / parts * num_heads,
           tables.data() + part * numel, scratch.data());
    }
  });
  float* out = table_grad.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, numel, 16384, [&](int64_t begin, int64_t end) {
    std::fill(out + begin, out + end, 0.0f);
    for (int64_t part = 0; part < parts; ++part) {
      const float* values = tables.data() + part * numel;
      for (int64_t i = begin; i < end; ++i) out[i] += values[i];
    }
  });
  return {qkv_grad, table_grad};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("window_attention_backward", TORCH_BOX(&fastmim::window_attention_backward));
}
