#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// The sum of term(i) for i < n, as four sums over quarters: one chain of additions would wait for each to finish.
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

// Subtracts the mean and divides by the deviation. Exact for a constant row: what rounding leaves of it after the first
// subtraction is the same everywhere, so the second one removes it.
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

}  // namespace

void patch_loss_rows(const PatchLoss& a, int64_t begin, int64_t end, float* scratch, double* sums) {
  const int64_t p = a.patch_size, line = p * a.channels, values = p * line;
  const int64_t columns = a.width / p, patches = a.height / p * columns;
  float *target = scratch, *buffer = scratch + values;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t image = a.rows[n] / patches, patch = a.rows[n] % patches;
    const int64_t top = patch / columns * p, left = patch % columns * p;
    // Lines are short; put together first, they are converted in one long loop.
    const int64_t bytes = line * size_of(a.image_type);
    char* pixels = reinterpret_cast<char*>(a.image_type == Type::f32 ? target : buffer);
    for (int64_t r = 0; r < p; ++r) {
      const int64_t start = ((image * a.height + top + r) * a.width + left) * a.channels;
      memcpy(pixels + r * bytes, static_cast<const char*>(a.images) + start * size_of(a.image_type), bytes);
    }
    if (a.image_type != Type::f32) load(a.image_type, pixels, 0, target, values);
    if (a.image_type == Type::u8) {
#pragma omp simd
      for (int64_t i = 0; i < values; ++i) target[i] = target[i] * a.scale[i] + a.shift[i];
    }
    if (a.norm_pix) normalize(target, values);

    const bool direct = a.pred_type == Type::f32;
    const float* pred = buffer;
    if (direct) {
      pred = static_cast<const float*>(a.pred) + n * values;
    } else {
      load(a.pred_type, a.pred, n * values, buffer, values);
    }
    float* grad = direct && a.grad ? static_cast<float*>(a.grad) + n * values : buffer;
    const float step = a.grad_scale;
    if (a.l1) {
      sums[n] = sum(values, [=](int64_t i) {
        const float d = pred[i] - target[i];
        const float slope = __builtin_copysignf(step, d);  // a sign bit, not a branch on pixels
        grad[i] = d == 0 ? 0.0f : slope;
        return __builtin_fabsf(d);
      });
    } else {
      sums[n] = sum(values, [=](int64_t i) {
        const float d = pred[i] - target[i];
        grad[i] = d * (2 * step);
        return d * d;
      });
    }
    if (a.grad && !direct) store(a.pred_type, buffer, a.grad, n * values, values);
  }
}

}  // namespace fastmim::FASTMIM_ISA
