// Normalised images with hidden pixels filled, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct MeanFill {
  const void* images;  // (B, H, W, C)
  Type image_type;
  const bool* hidden;  // (B, rows, columns), or null if nothing is hidden
  const float* mean;   // (W C,): mean and std of each value of a line
  const float* std;
  void* out;  // (B, H, W, C)
  Type out_type;
  int64_t height, width, channels, rows, columns;
};

// Writes images begin..end. lines: H indices; scratch: 11 W C floats.
using MeanFillImages = void(const MeanFill&, int64_t begin, int64_t end, int64_t* lines, float* scratch);
FASTMIM_DECLARE(MeanFillImages, mean_fill_images)

}  // namespace fastmim
