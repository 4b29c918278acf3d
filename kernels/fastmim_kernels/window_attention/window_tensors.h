// The arguments of window attention, checked.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {

// Contiguous tensors, on whose memory the result lies.
inline WindowAttention window_attention_of(const Tensor& qkv, const Tensor& codes, const Tensor& table, int64_t num_heads,
                                           const std::vector<int64_t>& window, const std::vector<int64_t>& shift,
                                           int64_t origin, double scale) {
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
  const int64_t tokens = qkv.size(1) * qkv.size(2), offsets = table.size(1);
  const int32_t* code = codes.const_data_ptr<int32_t>();
  for (int64_t image = 0; image < codes.size(0) && tokens > 0; ++image, code += tokens) {
    const auto [least, most] = std::minmax_element(code, code + tokens);
    const int64_t reach = static_cast<int64_t>(*most) - *least;
    STD_TORCH_CHECK(reach <= origin && origin + reach < offsets, "window_attention: codes[", image, "] are up to ",
                    reach, " apart, but the table reaches from ", -origin, " to ", offsets - 1 - origin);
  }
  return {
      .qkv = qkv.const_data_ptr(),
      .type = type_of(qkv),
      .codes = codes.const_data_ptr<int32_t>(),
      .codes_stride = codes.size(0) == 1 ? 0 : tokens,
      .table = table.const_data_ptr<float>(),
      .offsets = offsets,
      .out = nullptr,
      .grid = {qkv.size(1), qkv.size(2)},
      .window = {window[0], window[1]},
      .shift = {shift[0], shift[1]},
      .heads = num_heads,
      .dim = qkv.size(3) / (3 * num_heads),
      .origin = origin,
      .scale = static_cast<float>(scale),
  };
}

}  // namespace fastmim
