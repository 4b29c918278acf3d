#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Returns the sum of term(i) for i < n. Four sums over quarters run in parallel, because one chain of additions would
// wait for each addition.
template <class Term>
float sum(int64_t n, Term term) {
  float a = 0, b = 0, c = 0, d = 0;
  const int64_t quarter = n / 4;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < quarter; ++i) {
    a += term(i);
    b += term(i + quarter);
    c += term(i + 2 * quarter);
    d += term(i + 3 * quarter);
  }
  for (int64_t i = 4 * quarter; i < n; ++i) a += term(i);
  return (a + b) + (c + d);
}

// Subtracts the mean and divides by the standard deviation. The result is exact for a constant row: the first
// subtraction leaves the same rounding error everywhere, which the second subtraction removes.
void normalize(float* x, int64_t n) {
  const float mean = sum(n, [=](int64_t i) { return x[i]; }) / static_cast<float>(n);
  const float rest = sum(n, [=](int64_t i) { return x[i] -= mean; }) / static_cast<float>(n);
  const float squares = sum(n, [=](int64_t i) {
    const float d = x[i] -= rest;
    return d * d;
  });
  const float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n - 1) + 1e-6f);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// Transposes (positions, channels) to (channels, positions).
void channels_first(const float* x, int64_t positions, int64_t channels, float* out) {
  for (int64_t c = 0; c < channels; ++c) {
#pragma omp simd
    for (int64_t i = 0; i < positions; ++i) out[c * positions + i] = x[i * channels + c];
  }
}

template <bool gamma_is_1>
float compare_focal(const PatchLoss& a, const float* pred, const float* target, float* grad, int64_t n) {
  const FocalL1 focal = a.focal;
  const float step = a.grad_scale;
  return sum(n, [=](int64_t i) {
    const float d = pred[i] - target[i];
    float value, slope;
    focal_l1<gamma_is_1>(focal, __builtin_fabsf(d), value, slope);
    grad[i] = step * __builtin_copysignf(slope, d);
    return value;
  });
}

// Writes the gradient and returns the sum of losses. The gradient may overwrite pred.
float compare(const PatchLoss& a, const float* pred, const float* target, float* grad, int64_t n) {
  const float step = a.grad_scale;
  if (a.loss == ElementLoss::l1) {
    return sum(n, [=](int64_t i) {
      const float d = pred[i] - target[i];
      const float slope = __builtin_copysignf(step, d);  // copies a sign bit; a branch on pixels would mispredict
      grad[i] = d == 0 ? 0.0f : slope;
      return __builtin_fabsf(d);
    });
  }
  if (a.loss == ElementLoss::l2) {
    return sum(n, [=](int64_t i) {
      const float d = pred[i] - target[i];
      grad[i] = d * (2 * step);
      return d * d;
    });
  }
  return a.focal.gamma == 1 ? compare_focal<true>(a, pred, target, grad, n)
                            : compare_focal<false>(a, pred, target, grad, n);
}

}  // namespace

void patch_loss_rows(const PatchLoss& a, int64_t begin, int64_t end, float* scratch, double* sums) {
  const Images& shape = a.in.shape;
  const Type type = a.in.pred_type;
  const int64_t values = values_of(shape), patches = patches_of(shape), stride = a.value_stride;
  const float *scale = a.in.scale, *shift = a.in.shift;
  const bool direct = type == Type::f32 && stride == 1;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t image = a.rows[n] / patches, patch = a.rows[n] % patches;
    float *target = scratch, *buffer = scratch + values;
    load_patch(a.in, image, patch, target, buffer);
    if (a.in.image_type == Type::u8) {
#pragma omp simd
      for (int64_t i = 0; i < values; ++i) target[i] = target[i] * scale[i] + shift[i];
    }
    if (a.norm_pix) normalize(target, values);
    if (a.channels_first) {
      channels_first(target, values / shape.channels, shape.channels, buffer);
      target = buffer;
      buffer = scratch;
    }

    const int64_t start = a.every ? image * a.image_stride + patch * a.row_stride : n * a.row_stride;
    const float* pred = buffer;
    if (stride == 1) {
      pred = floats(type, a.in.pred, start, buffer, values);
    } else {
      for (int64_t i = 0; i < values; ++i) load(type, a.in.pred, start + i * stride, buffer + i, 1);
    }
    float* grad = direct && a.grad ? static_cast<float*>(a.grad) + start : buffer;
    sums[n] = compare(a, pred, target, grad, values);
    if (!a.grad || direct) continue;
    if (stride == 1) {
      store(type, buffer, a.grad, start, values);
    } else {
      for (int64_t i = 0; i < values; ++i) store(type, buffer + i, a.grad, start + i * stride, 1);
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
