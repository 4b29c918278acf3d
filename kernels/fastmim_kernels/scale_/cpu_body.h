// Multiplies part of an array in place, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

using Scale = void(Type type, void* x, int64_t begin, int64_t end, float factor);
FASTMIM_DECLARE(Scale, scale)

}  // namespace fastmim
