// Gathered and normalised patches, on plain pointers.
#pragma once

#include "token_map.h"

namespace fastmim {

struct PatchGather {
  TokenMap map;
  const void* images;
  Type image_type;
  const int64_t* ids;  // (B, K), all in range
  int64_t num_ids;     // K
  const float* mean;   // (strip,): a uint8 value x at position i of a strip becomes (x / 255 - mean[i]) / std[i]
  const float* std;
  void* out;  // (B, N, t t C)
  Type out_type;
};

// Writes patches begin..end of the B K. scratch: 2 P floats.
using PatchGatherRows = void(const PatchGather&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(PatchGatherRows, patch_gather_rows)

}  // namespace fastmim
