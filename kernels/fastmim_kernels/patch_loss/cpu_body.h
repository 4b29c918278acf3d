// The loss and gradient of some rows of patch_loss, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct PatchLoss {
  const void* pred;  // (N, P)
  Type pred_type;
  const void* images;  // (B, H, W, C)
  Type image_type;
  const int64_t* rows;  // (N,), all in range
  const float* scale;   // (P,): the uint8 value x at position i of a patch stands for x * scale[i] + shift[i]
  const float* shift;
  void* grad;  // (N, P) of pred's type, or null
  int64_t height, width, channels, patch_size;
  bool norm_pix, l1;
  float grad_scale;  // times d(sum of losses)/d(pred) is what is written
};

// For rows begin..end: writes the summed loss of row n to sums[n]. scratch: 2 P floats.
using PatchLossRows = void(const PatchLoss&, int64_t begin, int64_t end, float* scratch, double* sums);
FASTMIM_DECLARE(PatchLossRows, patch_loss_rows)

}  // namespace fastmim
