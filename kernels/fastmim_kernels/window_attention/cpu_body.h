// Attention in the windows of a map, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct WindowAttention {
  const void* qkv;  // (B, H, W, 3, heads, D)
  Type type;        // of qkv and out
  const int32_t* codes;  // (B or 1, H, W)
  int64_t codes_stride;  // from one image to the next
  const float* table;    // (heads, N)
  int64_t offsets;       // N; origin +- the difference of any two codes of a window is below N
  void* out;             // (B, H, W, heads, D)
  int64_t grid[2], window[2], shift[2], heads, dim, origin;  // dim: D
  float scale;
};

namespace {

// Number of windows in an image, and of tokens in a window.
inline int64_t windows_of(const WindowAttention& a) { return a.grid[0] / a.window[0] * (a.grid[1] / a.window[1]); }
inline int64_t tokens_of(const WindowAttention& a) { return a.window[0] * a.window[1]; }

// Number of queries handled together, so that their scores stay in the first-level cache.
constexpr int64_t window_rows = 24;

// Floats of scratch for the bodies of window attention and of its gradients.
inline int64_t window_attention_scratch(const WindowAttention& a) {
  const int64_t tokens = tokens_of(a) + 8, dim = a.dim + 8;
  return 8 * tokens * dim + 2 * window_rows * tokens + window_rows * dim + 7 * tokens;
}

}  // namespace

// Handles (window, head) pairs begin..end of all B * windows * heads. Heads vary fastest.
using WindowAttentionItems = void(const WindowAttention&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(WindowAttentionItems, window_attention_items)

}  // namespace fastmim
