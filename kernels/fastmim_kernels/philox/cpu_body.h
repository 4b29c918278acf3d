// Random words of some counters of philox, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct Philox {
  uint64_t seed;
  uint32_t stream;
  const int64_t* ids;
  int64_t n;  // words wanted of each id, from ceil(n / 4) blocks of 4
};

// For blocks begin..end, counted through all ids: writes their words to `out`, where the first of them belongs.
using PhiloxBlocks = void(const Philox&, int64_t begin, int64_t end, int64_t* out);
FASTMIM_DECLARE(PhiloxBlocks, philox_blocks)

}  // namespace fastmim
