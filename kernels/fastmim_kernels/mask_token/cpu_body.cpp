#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void mask_token_lines(const MaskToken& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t dim = a.map.dim, bytes = dim * size_of(a.type);
  float *sum = scratch, *buffer = scratch + dim;
  for (int64_t n = begin; n < end; ++n) {
    runs(a.map, n / a.map.height, n % a.map.height, [&](int64_t first, int64_t count, bool hidden) {
      char* out = static_cast<char*>(a.out) + first * bytes;
      if (!hidden) {
        stream(out, static_cast<const char*>(a.x) + first * bytes, count * bytes);
        return;
      }
      for (int64_t i = 0; i < count; ++i) {
        const void* value = a.replacement;
        if (a.add) {
          const float* x = floats(a.type, a.x, (first + i) * dim, buffer, dim);
          if (a.gamma) {
#pragma omp simd
            for (int64_t d = 0; d < dim; ++d) sum[d] = a.gamma[d] * x[d] + a.token[d];
          } else {
#pragma omp simd
            for (int64_t d = 0; d < dim; ++d) sum[d] = x[d] + a.token[d];
          }
          value = sum;
          if (a.type != Type::f32) store(a.type, sum, buffer, 0, dim), value = buffer;
        }
        stream(out + i * bytes, value, bytes);
      }
    });
  }
  streamed();
}

}  // namespace fastmim::FASTMIM_ISA
