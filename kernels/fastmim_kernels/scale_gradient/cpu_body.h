// Multiplies part of an array in place, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

using ScaleGradient = void(Type type, void* x, int64_t begin, int64_t end, float factor);
FASTMIM_DECLARE(ScaleGradient, scale_gradient_values)

}  // namespace fastmim
