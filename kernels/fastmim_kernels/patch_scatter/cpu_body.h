// Writes some images made of patches, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct PatchScatter {
  Images shape;
  const void* grad;  // (B, K, P)
  Type grad_type;
  const int64_t* rows;  // (B, L): the row of grad, of all B K, that each patch of the images holds; -1 = black
  void* out;            // (B, H, W, C)
  Type out_type;
};

// For images begin..end. scratch: one line, in floats.
using PatchScatterImages = void(const PatchScatter&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(PatchScatterImages, patch_scatter_images)

}  // namespace fastmim
