// XXH64 with seed 0, after the specification of the xxHash algorithms.
#pragma once

#include "bytes.h"

namespace fastmim::reader {

uint64_t xxh64(Bytes bytes);

}  // namespace fastmim::reader
