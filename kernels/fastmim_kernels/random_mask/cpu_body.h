// Random masks for some images, on plain pointers.
#pragma once

#include "draws.h"

namespace fastmim {

struct RandomMask {
  uint64_t seed;
  uint32_t stream;
  const int64_t* ids;
  int64_t num_patches, num_keep;
  bool raster;
  int64_t* out;  // (B, num_patches)
};

// Writes the order of the patches for images begin..end. scratch: draws_scratch(num_patches) bytes.
using RandomMaskRows = void(const RandomMask&, int64_t begin, int64_t end, void* scratch);
FASTMIM_DECLARE(RandomMaskRows, random_mask_rows)

}  // namespace fastmim
