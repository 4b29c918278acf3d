// Gathers and normalises some patches, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct PatchGather {
  Images shape;
  const void* images;
  Type image_type;
  const int64_t* ids;  // (B, K), all in range
  int64_t num_ids;     // K
  const float* mean;   // (P,): the uint8 value x at position i of a patch stands for (x / 255 - mean[i]) / std[i]
  const float* std;
  void* out;  // (B, K, P)
  Type out_type;
};

// For rows begin..end of the B K patches. scratch: 2 P floats.
using PatchGatherRows = void(const PatchGather&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(PatchGatherRows, patch_gather_rows)

}  // namespace fastmim
