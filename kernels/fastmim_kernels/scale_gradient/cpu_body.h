// In-place product of an array with a factor, on plain pointers.
#pragma once

#include "body.h"

namespace fastmim {

// Multiplies values begin..end.
using ScaleGradient = void(Type type, void* x, int64_t begin, int64_t end, float factor);
FASTMIM_DECLARE(ScaleGradient, scale_gradient_values)

}  // namespace fastmim
