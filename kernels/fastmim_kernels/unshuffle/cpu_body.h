// Tokens of the decoder's input with positions added, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct Unshuffle {
  const void* latent;  // (B, prefix + K, D)
  Type latent_type;
  const float* mask_token;  // (D,)
  const void* pos_embed;    // (prefix + L, D)
  Type pos_type;       // type of pos_embed, hidden and out
  const int64_t* ids;  // (B, L), permutations
  void* hidden;        // (L, D): token of each patch where it is hidden, the same in every image
  void* out;           // (B, prefix + L, D)
  int64_t num_prefix, num_keep, num_patches, dim;  // prefix, K, L, D
  bool raster;
};

// Fills rows begin..end of hidden. scratch: 2 D floats.
using UnshuffleHidden = void(const Unshuffle&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(UnshuffleHidden, unshuffle_hidden)

// Writes tokens begin..end of the B (prefix + L), in the order prefix, visible, hidden. scratch: 2 D floats.
using UnshuffleTokens = void(const Unshuffle&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(UnshuffleTokens, unshuffle_tokens)

}  // namespace fastmim
