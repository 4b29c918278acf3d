#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Replaces n powers |F|^2 in `values` by the losses, writes the factors on F, and returns the largest weight.
template <bool log, bool alpha_is_1>
float frequency(float alpha, float* values, float* factors, int64_t n) {
  float peak = 0;
#pragma omp simd reduction(max : peak)
  for (int64_t i = 0; i < n; ++i) {
    const float m = __builtin_sqrtf(values[i]);
    const float raised = alpha_is_1 ? m : __builtin_powf(m, alpha);
    const float s = log ? log1p_of(raised) : raised;
    values[i] *= s;
    factors[i] = 2 * s;
    peak = s > peak ? s : peak;
  }
  return peak;
}

template <bool gamma_is_1>
void focal(FocalL1 a, float* values, float* factors, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float m = __builtin_sqrtf(values[i]);
    float value, slope;
    focal_l1<gamma_is_1>(a, m, value, slope);
    values[i] = value;
    factors[i] = m > 0 ? slope / m : 0.0f;
  }
}

float losses(const FocalFrequency& a, float* values, float* factors) {
  const int64_t n = a.half;
  if (a.frequency) {
    if (a.alpha == 1) {
      return a.log ? frequency<true, true>(1, values, factors, n) : frequency<false, true>(1, values, factors, n);
    }
    return a.log ? frequency<true, false>(a.alpha, values, factors, n)
                 : frequency<false, false>(a.alpha, values, factors, n);
  }
  if (a.gamma == 0) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      values[i] = __builtin_sqrtf(values[i]);
      factors[i] = values[i] > 0 ? 1.0f / values[i] : 0.0f;
    }
  } else if (a.gamma == 1) {
    focal<true>({a.alpha, a.gamma}, values, factors, n);
  } else {
    focal<false>({a.alpha, a.gamma}, values, factors, n);
  }
  return 1;
}

}  // namespace

void focal_frequency_rows(const FocalFrequency& a, int64_t begin, int64_t end, float* scratch, double* sums,
                         float* peaks) {
  const int64_t half = a.half;
  float *values = scratch, *factors = scratch + half;
  for (int64_t n = begin; n < end; ++n) {
    float* row = a.spectrum + n * 2 * half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) values[i] = row[2 * i] * row[2 * i] + row[2 * i + 1] * row[2 * i + 1];
    peaks[n] = losses(a, values, factors);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < half; ++i) sum += values[i];
    const float once = values[0] + (a.even ? values[half - 1] : 0.0f);
    sums[n] = 2.0 * static_cast<double>(sum) - static_cast<double>(once);
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      row[2 * i] *= factors[i];
      row[2 * i + 1] *= factors[i];
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
