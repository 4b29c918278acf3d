#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void scale_gradient_values(Type type, void* x, int64_t begin, int64_t end, float factor) {
  constexpr int64_t block = 1024;
  float buffer[block];
  for (int64_t at = begin; at < end; at += block) {
    const int64_t n = end - at < block ? end - at : block;
    load(type, x, at, buffer, n);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) buffer[i] *= factor;
    store(type, buffer, x, at, n);
  }
}

}  // namespace fastmim::FASTMIM_ISA
