// Composite residuals of some patches, on plain pointers.
#pragma once

#include "residual.h"

namespace fastmim {

struct CompositeResidual {
  Residuals in;
  const int64_t* inverse;  // (B, L): the row of pred of each patch
  const float* fill;       // (B, C), or null
  float* residual;         // (B / average, H, W, C)
  int64_t num_keep, num_patches, average;
  ElementLoss loss;
  FocalL1 focal;
  float visible_value, fill_weight;  // visible: visible_value d + fill_weight (fill - target)
};

// Writes patches begin..end of the (B / average) L of the result, and to sums[n] the loss of patch n, summed over
// hidden values. scratch: 3 P floats.
using CompositeResidualPatches = void(const CompositeResidual&, int64_t begin, int64_t end, float* scratch,
                                      double* sums);
FASTMIM_DECLARE(CompositeResidualPatches, composite_residual_patches)

}  // namespace fastmim
