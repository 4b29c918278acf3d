// Uniform masks for some images, on plain pointers.
#pragma once

#include "draws.h"

namespace fastmim {

struct UniformMask {
  uint64_t seed;
  uint32_t stream, secondary_stream;
  const int64_t* ids;
  int64_t rows, columns, kept;  // patches, both sides even; kept: visible patches not replaced
  bool stratified;
  int64_t* order;   // (B, rows * columns)
  bool* secondary;  // (B, rows * columns / 4)
};

// Number of corners in the pool of a stratified draw.
inline constexpr int64_t uniform_mask_pool(int64_t rows, int64_t columns) { return (rows * columns / 4 + 1) / 2 * 4; }

// Writes order and secondary for images begin..end. scratch: draws_scratch(pool) bytes.
using UniformMaskRows = void(const UniformMask&, int64_t begin, int64_t end, void* scratch);
FASTMIM_DECLARE(UniformMaskRows, uniform_mask_rows)

}  // namespace fastmim
