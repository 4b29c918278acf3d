// Images made of patches, on plain pointers.
#pragma once

#include "token_map.h"

namespace fastmim {

struct PatchScatter {
  TokenMap map;
  const void* grad;  // (B, N, t t C)
  Type grad_type;
  const int64_t* rows;  // (B, L): index of each patch among all B K patches of grad; -1 = none, so zero
  void* out;            // (B, H, W, C)
  Type out_type;
};

// Writes images begin..end. scratch: one line of a patch, in floats.
using PatchScatterImages = void(const PatchScatter&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(PatchScatterImages, patch_scatter_images)

}  // namespace fastmim
