// Gradients of unshuffle, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct UnshuffleBackward {
  const void* grad;  // (B, prefix + L, D)
  Type grad_type;
  const int64_t* ids;  // (B, L), permutations
  void* latent;        // (B, prefix + K, D)
  Type latent_type;
  int64_t num_prefix, num_keep, num_patches, dim;  // prefix, K, L, D
  bool raster;
};

// Handles images begin..end: writes the gradient of latent, and the sum of the hidden rows of image b to
// sums[b D .. b D + D]. rows: room for L indices; scratch: 8 D floats.
using UnshuffleBackwardImages = void(const UnshuffleBackward&, int64_t begin, int64_t end, float* sums, int64_t* rows,
                                     float* scratch);
FASTMIM_DECLARE(UnshuffleBackwardImages, unshuffle_backward_images)

// Sums n rows of `width` values of a matrix, always in the same order. scratch: 8 rows, in floats.
using SumRows = void(Type type, const void* matrix, int64_t width, const int64_t* rows, int64_t n, float* sum,
                     float* scratch);
FASTMIM_DECLARE(SumRows, sum_rows)

}  // namespace fastmim
