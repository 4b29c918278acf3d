// Random masks of some images, on plain pointers.
#pragma once

#include "philox.h"

namespace fastmim {

struct RandomMask {
  uint64_t seed;
  uint32_t stream;
  const int64_t* ids;
  int64_t num_patches, num_keep;
  bool raster;
  int64_t* out;  // (B, num_patches)
};

// High bits of a draw that name its bucket: 2 to 4 buckets for each patch, so that few hold more than one.
inline constexpr int random_mask_bits(int64_t num_patches) {
  int bits = 2;
  while (bits < 32 && int64_t{1} << bits < 2 * num_patches) ++bits;
  return bits;
}

// Bytes of scratch that random_mask_rows needs, at an address that is a multiple of 8.
inline constexpr int64_t random_mask_scratch(int64_t num_patches) {
  const int64_t group = 4 * philox_lanes, draws = (num_patches + group - 1) / group * group;
  const int64_t buckets = int64_t{1} << random_mask_bits(num_patches);
  return 8 * num_patches + 4 * draws + 4 * buckets;
}

// For images begin..end: writes the order of the patches.
using RandomMaskRows = void(const RandomMask&, int64_t begin, int64_t end, void* scratch);
FASTMIM_DECLARE(RandomMaskRows, random_mask_rows)

}  // namespace fastmim
