#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

template <bool gamma_is_1>
void add_focal(FocalL1 focal, float step, const float* d, float* grad, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float value, slope;
    focal_l1<gamma_is_1>(focal, __builtin_fabsf(d[i]), value, slope);
    grad[i] += step * __builtin_copysignf(slope, d[i]);
  }
}

// Adds step times the slope of the loss at d to the gradient.
void add_slope(const CompositeResidualBackward& a, const float* d, float* grad, int64_t n) {
  const float step = a.step;
  if (a.loss == ElementLoss::l1) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float slope = d[i] < 0 ? -step : step;
      grad[i] += d[i] == 0 ? 0.0f : slope;
    }
  } else if (a.loss == ElementLoss::l2) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) grad[i] += 2 * step * d[i];
  } else if (a.focal.gamma == 1) {
    add_focal<true>(a.focal, step, d, grad, n);
  } else {
    add_focal<false>(a.focal, step, d, grad, n);
  }
}

}  // namespace

void composite_residual_backward_rows(const CompositeResidualBackward& a, int64_t begin, int64_t end, float* scratch) {
  const Images& shape = a.in.shape;
  const int64_t values = values_of(shape);
  const bool direct = a.in.pred_type == Type::f32;
  float *target = scratch + values, *d = scratch + 2 * values;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t image = n / a.num_patches, patch = a.ids[n];
    const bool hidden = n % a.num_patches >= a.num_keep;
    float* grad = direct ? static_cast<float*>(a.grad) + n * values : scratch;
    const float factor = (hidden ? 1.0f : a.visible_weight) / static_cast<float>(a.average);
    if (factor == 0) {
      memset(static_cast<char*>(a.grad) + n * values * size_of(a.in.pred_type), 0, values * size_of(a.in.pred_type));
      continue;
    }
    copy_patch(shape, a.grad_residual, sizeof(float), start_of(shape, image / a.average, patch), grad);
#pragma omp simd
    for (int64_t i = 0; i < values; ++i) grad[i] *= factor;
    if (hidden) {
      residual(a.in, n, image, patch, target, d);
      add_slope(a, d, grad, values);
    }
    if (!direct) store(a.in.pred_type, grad, a.grad, n * values, values);
  }
}

}  // namespace fastmim::FASTMIM_ISA
