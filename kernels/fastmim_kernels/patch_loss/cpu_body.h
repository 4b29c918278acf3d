// Losses and gradients of some patches, on plain pointers.
#pragma once

#include "residual.h"

namespace fastmim {

struct PatchLoss {
  Residuals in;
  const int64_t* rows;  // (N,), all in range
  void* grad;           // with the strides of pred, or null
  bool every;           // True if pred has every patch of every image, not only `rows`
  int64_t image_stride, row_stride, value_stride;  // of pred, in elements; the first if `every`
  bool norm_pix, channels_first;
  ElementLoss loss;
  FocalL1 focal;
  float grad_scale;  // factor on d(sum of losses)/d(pred)
};

// Handles rows begin..end: writes the summed loss of row n to sums[n], and the gradient. scratch: 2 P floats.
using PatchLossRows = void(const PatchLoss&, int64_t begin, int64_t end, float* scratch, double* sums);
FASTMIM_DECLARE(PatchLossRows, patch_loss_rows)

}  // namespace fastmim
