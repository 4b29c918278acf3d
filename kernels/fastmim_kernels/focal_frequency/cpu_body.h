// Focal frequency losses of some rows of spectra, and their gradients, on plain pointers.
#pragma once

#include "focal.h"

namespace fastmim {

struct FocalFrequency {
  float* spectrum;  // (N h, half, 2), half = width // 2 + 1
  int64_t half;
  bool even;  // True if the width is even: the last column then counts once
  bool frequency, log;
  float alpha;
  float gamma;  // of the complex focal L1 loss: 0 or at least 1
};

// Handles rows begin..end: writes the loss of row n to sums[n] and its largest weight to peaks[n]. scratch: 2 half
// floats.
using FocalFrequencyRows = void(const FocalFrequency&, int64_t begin, int64_t end, float* scratch, double* sums,
                               float* peaks);
FASTMIM_DECLARE(FocalFrequencyRows, focal_frequency_rows)

}  // namespace fastmim
