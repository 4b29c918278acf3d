#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void sum_rows(Type type, const void* matrix, int64_t width, const int64_t* rows, int64_t n, float* sum,
              float* scratch) {
  memset(sum, 0, width * sizeof(float));
  int64_t i = 0;
  // Eight rows at a time, added in pairs: the running sum is read and rounded once per eight rows.
  for (; i + 8 <= n; i += 8) {
    const float* x[8];
    for (int64_t k = 0; k < 8; ++k) x[k] = floats(type, matrix, rows[i + k] * width, scratch + k * width, width);
    const float *a = x[0], *b = x[1], *c = x[2], *d = x[3], *e = x[4], *f = x[5], *g = x[6], *h = x[7];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      sum[j] += ((a[j] + b[j]) + (c[j] + d[j])) + ((e[j] + f[j]) + (g[j] + h[j]));
    }
  }
  for (; i < n; ++i) {
    const float* x = floats(type, matrix, rows[i] * width, scratch, width);
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) sum[j] += x[j];
  }
}

void unshuffle_backward_images(const UnshuffleBackward& a, int64_t begin, int64_t end, float* sums, int64_t* rows,
                               float* scratch) {
  const int64_t total = a.num_prefix + a.num_patches, given = a.num_prefix + a.num_keep, dim = a.dim;
  for (int64_t image = begin; image < end; ++image) {
    const int64_t* ids = a.ids + image * a.num_patches;
    for (int64_t j = 0; j < total; ++j) {
      const int64_t row = image * total + (a.raster && j >= a.num_prefix ? a.num_prefix + ids[j - a.num_prefix] : j);
      const int64_t to = (image * given + j) * dim;
      if (j >= given) {
        rows[j - given] = row;
      } else if (a.grad_type == a.latent_type) {
        const int64_t size = size_of(a.grad_type);
        memcpy(static_cast<char*>(a.latent) + to * size, static_cast<const char*>(a.grad) + row * dim * size,
               dim * size);
      } else {
        store(a.latent_type, floats(a.grad_type, a.grad, row * dim, scratch, dim), a.latent, to, dim);
      }
    }
    sum_rows(a.grad_type, a.grad, dim, rows, total - given, sums + image * dim, scratch);
  }
}

}  // namespace fastmim::FASTMIM_ISA
