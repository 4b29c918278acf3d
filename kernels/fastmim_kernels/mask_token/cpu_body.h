// Mask tokens in the hidden cells of some maps, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

// A feature map and its mask.
struct Map {
  const bool* hidden;                          // (B, rows, columns)
  int64_t height, width, dim, rows, columns;   // H, W, D
};

struct MaskToken {
  Map map;
  const void* x;  // (B, H, W, D)
  Type type;
  const void* replacement;  // (D,) of x's type: value of hidden cells if the token replaces
  const float* token;       // (D,)
  const float* gamma;       // (D,), or null = 1
  bool add;
  void* out;  // (B, H, W, D)
};

namespace {

// Calls run(first, n, hidden) for each run of positions in line y of an image that are all hidden or all visible.
template <class Run>
inline void runs(const Map& a, int64_t image, int64_t y, Run run) {
  const bool* cells = a.hidden + (image * a.rows + y * a.rows / a.height) * a.columns;
  const int64_t cell = a.width / a.columns, line = (image * a.height + y) * a.width;
  for (int64_t first = 0, last; first < a.columns; first = last) {
    for (last = first + 1; last < a.columns && cells[last] == cells[first];) ++last;
    run(line + first * cell, (last - first) * cell, cells[first]);
  }
}

}  // namespace

// Writes lines begin..end of the B H. scratch: 2 D floats.
using MaskTokenLines = void(const MaskToken&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(MaskTokenLines, mask_token_lines)

}  // namespace fastmim
