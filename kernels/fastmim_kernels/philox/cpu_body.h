// Random words of some counters, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

struct Philox {
  uint64_t seed;
  uint32_t stream;
  const int64_t* ids;
  int64_t n;  // words per id, from ceil(n / 4) blocks of 4
};

// Writes the words of blocks begin..end, counted through all ids. `out` points to the place of the first word.
using PhiloxBlocks = void(const Philox&, int64_t begin, int64_t end, int64_t* out);
FASTMIM_DECLARE(PhiloxBlocks, philox_blocks)

}  // namespace fastmim
