#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Adds d to acc and returns the sum of term(d). Four sums over quarters run in parallel, because one chain of additions
// would wait for each addition.
template <class Term>
float add(const float* d, float* acc, int64_t n, Term term) {
  float a = 0, b = 0, c = 0, e = 0;
  const int64_t q = n / 4;
#pragma omp simd reduction(+ : a, b, c, e)
  for (int64_t i = 0; i < q; ++i) {
    acc[i] += d[i];
    acc[i + q] += d[i + q];
    acc[i + 2 * q] += d[i + 2 * q];
    acc[i + 3 * q] += d[i + 3 * q];
    a += term(d[i]);
    b += term(d[i + q]);
    c += term(d[i + 2 * q]);
    e += term(d[i + 3 * q]);
  }
  for (int64_t i = 4 * q; i < n; ++i) {
    acc[i] += d[i];
    a += term(d[i]);
  }
  return (a + b) + (c + e);
}

template <bool gamma_is_1>
float add_focal(FocalL1 focal, const float* d, float* acc, int64_t n) {
  return add(d, acc, n, [=](float x) {
    float value, slope;
    focal_l1<gamma_is_1>(focal, __builtin_fabsf(x), value, slope);
    return value;
  });
}

float add_hidden(const CompositeResidual& a, const float* d, float* acc, int64_t n) {
  if (a.loss == ElementLoss::l1) return add(d, acc, n, [](float x) { return __builtin_fabsf(x); });
  if (a.loss == ElementLoss::l2) return add(d, acc, n, [](float x) { return x * x; });
  return a.focal.gamma == 1 ? add_focal<true>(a.focal, d, acc, n) : add_focal<false>(a.focal, d, acc, n);
}

void add_visible(const CompositeResidual& a, const float* fill, const float* d, const float* target, float* acc) {
  const int64_t values = values_of(a.in.shape), channels = a.in.shape.channels;
  const float value = a.visible_value, weight = fill ? a.fill_weight : 0.0f;
#pragma omp simd
  for (int64_t i = 0; i < values; ++i) acc[i] += value * d[i];
  if (!fill) return;
  for (int64_t i = 0; i < values; i += channels) {
    for (int64_t c = 0; c < channels; ++c) acc[i + c] += weight * (fill[c] - target[i + c]);
  }
}

}  // namespace

void composite_residual_patches(const CompositeResidual& a, int64_t begin, int64_t end, float* scratch, double* sums) {
  const Images& shape = a.in.shape;
  const int64_t values = values_of(shape), line = line_of(shape);
  float *acc = scratch, *target = scratch + values, *d = scratch + 2 * values;
  const float share = 1.0f / static_cast<float>(a.average);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t group = n / a.num_patches, patch = n % a.num_patches;
    memset(acc, 0, values * sizeof(float));
    double sum = 0;
    for (int64_t image = group * a.average; image < (group + 1) * a.average; ++image) {
      const int64_t j = a.inverse[image * a.num_patches + patch];
      const bool hidden = j >= a.num_keep;
      if (!hidden && a.visible_value == 0 && !a.fill) continue;
      residual(a.in, image * a.num_patches + j, image, patch, target, d);
      if (hidden) {
        sum += add_hidden(a, d, acc, values);
      } else {
        add_visible(a, a.fill ? a.fill + image * shape.channels : nullptr, d, target, acc);
      }
    }
    sums[n] = sum;
    float* out = a.residual + start_of(shape, group, patch);
    for (int64_t r = 0; r < shape.patch_size; ++r) {
#pragma omp simd
      for (int64_t i = 0; i < line; ++i) out[r * shape.width * shape.channels + i] = share * acc[r * line + i];
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
