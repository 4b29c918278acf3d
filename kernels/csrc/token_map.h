// The map of tokens that patch_gather makes from patches and patch_scatter takes apart. For op bodies, see body.h.
#pragma once

#include "body.h"

namespace fastmim {

// Patches side by side, `columns` in a row, cut into tokens of token_size x token_size pixels in raster order. A strip
// is the part of one patch in one row of tokens; its values are contiguous in the map.
struct TokenMap {
  Images images;
  int64_t token_size, columns;
};

namespace {

inline int64_t strips_of(const TokenMap& x) { return x.images.patch_size / x.token_size; }  // strips of a patch
inline int64_t strip_of(const TokenMap& x) { return x.token_size * line_of(x.images); }     // values of a strip

// Number of values that are contiguous both in an image and in a token. Tokens of one pixel are contiguous too.
inline int64_t run_of(const TokenMap& x) {
  return x.token_size == 1 ? line_of(x.images) : x.token_size * x.images.channels;
}

// The index in the map of the first value of a strip, for patch `n` of all B K.
inline int64_t start_of(const TokenMap& x, int64_t n, int64_t strip) {
  return ((n / x.columns * strips_of(x) + strip) * x.columns + n % x.columns) * strip_of(x);
}

}  // namespace
}  // namespace fastmim
