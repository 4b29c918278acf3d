// Gradients of mask_token, on plain pointers.
#pragma once

#include "../mask_token/cpu_body.h"

namespace fastmim {

struct MaskTokenBackward {
  Map map;
  const void* grad;  // (B, H, W, D)
  Type type;
  const void* x;  // (B, H, W, D), read only with gamma
  Type x_type;
  const float* gamma;  // (D,), or null
  void* out;           // (B, H, W, D): gradient of x, or null if that is grad
};

// Handles images begin..end: writes the gradient of x, the gradient of token summed over image b to sums[2 b D .. + D],
// and after it the gradient of gamma. rows: W indices; scratch: 10 D floats.
using MaskTokenBackwardImages = void(const MaskTokenBackward&, int64_t begin, int64_t end, float* sums, int64_t* rows,
                                     float* scratch);
FASTMIM_DECLARE(MaskTokenBackwardImages, mask_token_backward_images)

}  // namespace fastmim
