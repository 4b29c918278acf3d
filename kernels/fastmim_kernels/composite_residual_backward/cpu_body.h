// Gradients of some rows of predictions, on plain pointers.
#pragma once

#include "residual.h"

namespace fastmim {

struct CompositeResidualBackward {
  Residuals in;
  const int64_t* ids;          // (B, L), permutations
  const float* grad_residual;  // (B / average, H, W, C)
  void* grad;                  // (B, L, P) of pred's type
  int64_t num_keep, num_patches, average;
  ElementLoss loss;
  FocalL1 focal;
  float visible_weight;
  float step;  // factor on the slope of the loss
};

// Writes rows begin..end of the B L. scratch: 3 P floats.
using CompositeResidualBackwardRows = void(const CompositeResidualBackward&, int64_t begin, int64_t end,
                                           float* scratch);
FASTMIM_DECLARE(CompositeResidualBackwardRows, composite_residual_backward_rows)

}  // namespace fastmim
