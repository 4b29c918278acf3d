// The map of tokens that patch_gather makes of patches and patch_scatter takes apart. For op bodies: see body.h.
#pragma once

#include "body.h"

namespace fastmim {

// Patches side by side, `columns` of them in a row, cut into tokens of token_size x token_size pixels in raster order.
// What a row of tokens has of one patch is a strip: its values lie side by side in the map.
struct TokenMap {
  Images images;
  int64_t token_size, columns;
};

namespace {

inline int64_t strips_of(const TokenMap& x) { return x.images.patch_size / x.token_size; }  // of a patch
inline int64_t strip_of(const TokenMap& x) { return x.token_size * line_of(x.images); }     // its values

// The values that lie side by side in an image and in a token: where tokens are pixels, these do, too.
inline int64_t run_of(const TokenMap& x) {
  return x.token_size == 1 ? line_of(x.images) : x.token_size * x.images.channels;
}

// The first value in the map of a strip of patch `n` of all B K.
inline int64_t start_of(const TokenMap& x, int64_t n, int64_t strip) {
  return ((n / x.columns * strips_of(x) + strip) * x.columns + n % x.columns) * strip_of(x);
}

}  // namespace
}  // namespace fastmim
