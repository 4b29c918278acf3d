// Gradients of window attention, on plain pointers.
#pragma once

#include "../window_attention/cpu_body.h"

namespace fastmim {

struct WindowAttentionBackward {
  WindowAttention forward;  // `out` is unused
  const void* grad;         // (B, H, W, heads, D)
  Type grad_type;
  void* qkv_grad;  // (B, H, W, 3, heads, D), of qkv's type
};

// Handles (window, head) pairs begin..end of all B * windows * heads: writes their part of qkv_grad and adds to tables
// (heads, N). Heads vary fastest.
using WindowAttentionGradients = void(const WindowAttentionBackward&, int64_t begin, int64_t end, float* tables,
                                      float* scratch);
FASTMIM_DECLARE(WindowAttentionGradients, window_attention_gradients)

}  // namespace fastmim
