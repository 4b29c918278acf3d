// Checks of the arguments of window attention.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {

// Raises unless the table holds the offset of any two tokens of a window.
inline void check_codes(const WindowAttention& a, int64_t batch) {
  const int64_t across = a.grid[1] / a.window[1];
  std::vector<int32_t> least(windows_of(a)), most(windows_of(a));
  for (int64_t image = 0; image < batch; ++image) {
    std::fill(least.begin(), least.end(), INT32_MAX);
    std::fill(most.begin(), most.end(), INT32_MIN);
    for (int64_t r = 0; r < a.grid[0]; ++r) {
      const int64_t row = (r + a.grid[0] - a.shift[0]) % a.grid[0] / a.window[0];
      for (int64_t c = 0; c < a.grid[1]; ++c) {
        const int64_t window = row * across + (c + a.grid[1] - a.shift[1]) % a.grid[1] / a.window[1];
        const int32_t code = a.codes[(image * a.grid[0] + r) * a.grid[1] + c];
        least[window] = std::min(least[window], code);
        most[window] = std::max(most[window], code);
      }
    }
    for (size_t n = 0; n < least.size(); ++n) {
      const int64_t reach = static_cast<int64_t>(most[n]) - least[n];
      STD_TORCH_CHECK(reach <= a.origin && a.origin + reach < a.offsets, "window_attention: codes[", image,
                      "] are up to ", reach, " apart in a window, but the table reaches from ", -a.origin, " to ",
                      a.offsets - 1 - a.origin);
    }
  }
}

// Returns the work on contiguous tensors. The result points to their memory.
inline WindowAttention window_attention_of(const Tensor& qkv, const Tensor& codes, const Tensor& table,
                                           int64_t num_heads, const std::vector<int64_t>& window,
                                           const std::vector<int64_t>& shift, int64_t origin, double scale) {
  STD_TORCH_CHECK(qkv.dim() == 4 && codes.dim() == 3 && table.dim() == 2 && window.size() == 2 && shift.size() == 2,
                  "window_attention: wrong number of dimensions");
  STD_TORCH_CHECK(num_heads > 0 && qkv.size(3) % (3 * num_heads) == 0 && table.size(0) == num_heads &&
                      (codes.size(0) == qkv.size(0) || codes.size(0) == 1) && type_of(qkv) != Type::u8,
                  "window_attention: qkv, codes, table and num_heads do not fit together");
  for (int i = 0; i < 2; ++i) {
    STD_TORCH_CHECK(codes.size(1 + i) == qkv.size(1 + i) && window[i] > 0 && qkv.size(1 + i) % window[i] == 0 &&
                        shift[i] >= 0 && shift[i] < window[i],
                    "window_attention: window or shift does not fit the map");
  }
  const int64_t tokens = qkv.size(1) * qkv.size(2);
  const WindowAttention work{
      .qkv = qkv.const_data_ptr(),
      .type = type_of(qkv),
      .codes = codes.const_data_ptr<int32_t>(),
      .codes_stride = codes.size(0) == 1 ? 0 : tokens,
      .table = table.const_data_ptr<float>(),
      .offsets = table.size(1),
      .out = nullptr,
      .grid = {qkv.size(1), qkv.size(2)},
      .window = {window[0], window[1]},
      .shift = {shift[0], shift[1]},
      .heads = num_heads,
      .dim = qkv.size(3) / (3 * num_heads),
      .origin = origin,
      .scale = static_cast<float>(scale),
  };
  check_codes(work, codes.size(0));
  return work;
}

}  // namespace fastmim
