// The loss and gradient of some rows of patch_loss, on plain pointers.
#pragma once

#include "residual.h"

namespace fastmim {

struct PatchLoss {
  Residuals in;
  const int64_t* rows;  // (N,), all in range
  void* grad;           // strided as pred is, or null
  bool every;           // pred has a row for each patch of each image, not for each of `rows`
  int64_t image_stride, row_stride, value_stride;  // of pred, in elements; the first if `every`
  bool norm_pix, channels_first;
  ElementLoss loss;
  FocalL1 focal;
  float grad_scale;  // times d(sum of losses)/d(pred) is what is written
};

// For rows begin..end: writes the summed loss of row n to sums[n]. scratch: 2 P floats.
using PatchLossRows = void(const PatchLoss&, int64_t begin, int64_t end, float* scratch, double* sums);
FASTMIM_DECLARE(PatchLossRows, patch_loss_rows)

}  // namespace fastmim
