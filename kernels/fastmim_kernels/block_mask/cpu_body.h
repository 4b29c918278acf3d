// Masks of blocks for some images, on plain pointers.
#pragma once

#include "draws.h"

namespace fastmim {

struct BlockMask {
  uint64_t seed;
  uint32_t stream;
  const int64_t* ids;
  int64_t rows, columns, side;  // side: patches along a side of a block
  int64_t* order;               // (B, rows * columns)
};

inline constexpr int64_t block_mask_blocks(int64_t rows, int64_t columns, int64_t side) {
  return ((rows + side - 1) / side) * ((columns + side - 1) / side);
}

// Writes the order of the patches for images begin..end. scratch: draws_scratch(blocks) bytes.
using BlockMaskRows = void(const BlockMask&, int64_t begin, int64_t end, void* scratch);
FASTMIM_DECLARE(BlockMaskRows, block_mask_rows)

}  // namespace fastmim
