#include "cpu_body.h"

#include "../unshuffle_backward/cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

void add(const float* part, float* sum, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += part[i];
}

// Writes the gradient of x in n hidden rows and sums the gradient of gamma. scratch: 3 D floats.
void scale_rows(const MaskTokenBackward& a, const int64_t* rows, int64_t n, float* part, float* scratch) {
  const int64_t dim = a.map.dim, bytes = dim * size_of(a.type);
  float *product = scratch, *g_buffer = scratch + dim, *x_buffer = scratch + 2 * dim;
  memset(part, 0, dim * sizeof(float));
  for (int64_t i = 0; i < n; ++i) {
    const float* g = floats(a.type, a.grad, rows[i] * dim, g_buffer, dim);
    const float* x = floats(a.x_type, a.x, rows[i] * dim, x_buffer, dim);
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      part[d] += g[d] * x[d];
      product[d] = g[d] * a.gamma[d];
    }
    const void* value = product;
    if (a.type != Type::f32) store(a.type, product, g_buffer, 0, dim), value = g_buffer;
    stream(static_cast<char*>(a.out) + rows[i] * bytes, value, bytes);
  }
}

}  // namespace

void mask_token_backward_images(const MaskTokenBackward& a, int64_t begin, int64_t end, float* sums, int64_t* rows,
                                float* scratch) {
  const int64_t dim = a.map.dim, bytes = dim * size_of(a.type);
  float *zeros = scratch, *part = scratch + dim, *rest = scratch + 2 * dim;
  memset(zeros, 0, dim * sizeof(float));
  for (int64_t image = begin; image < end; ++image) {
    float* sum = sums + 2 * image * dim;
    memset(sum, 0, 2 * dim * sizeof(float));
    for (int64_t y = 0; y < a.map.height; ++y) {
      int64_t n = 0;
      runs(a.map, image, y, [&](int64_t first, int64_t count, bool hidden) {
        char* out = static_cast<char*>(a.out) + first * bytes;
        if (!hidden) {
          if (a.out) stream(out, static_cast<const char*>(a.grad) + first * bytes, count * bytes);
          return;
        }
        for (int64_t i = 0; i < count; ++i) {
          rows[n++] = first + i;
          if (a.out && !a.gamma) stream(out + i * bytes, zeros, bytes);
        }
      });
      // Sum each line first, then the lines: short sums have small rounding errors.
      sum_rows(a.type, a.grad, dim, rows, n, part, rest);
      add(part, sum, dim);
      if (a.gamma) {
        scale_rows(a, rows, n, part, rest);
        add(part, sum + dim, dim);
      }
    }
  }
  streamed();
}

}  // namespace fastmim::FASTMIM_ISA
