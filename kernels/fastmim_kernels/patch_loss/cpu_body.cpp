#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Subtracts the mean and divides by the deviation. Exact for a constant row: what rounding leaves of it after the first
// subtraction is the same everywhere, so the second one removes it.
void normalize(float* target, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += target[i];
  const float mean = sum / static_cast<float>(n);
  float rest = 0, squares = 0;
#pragma omp simd reduction(+ : rest, squares)
  for (int64_t i = 0; i < n; ++i) {
    target[i] -= mean;
    rest += target[i];
    squares += target[i] * target[i];
  }
  rest /= static_cast<float>(n);
  const float variance = (squares - rest * rest * static_cast<float>(n)) / static_cast<float>(n - 1);
  const float factor = 1.0f / __builtin_sqrtf((variance > 0 ? variance : 0) + 1e-6f);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) target[i] = (target[i] - rest) * factor;
}

}  // namespace

void patch_loss_rows(const PatchLoss& a, int64_t begin, int64_t end, float* scratch, double* sums) {
  const int64_t p = a.patch_size, line = p * a.channels, values = p * line;
  const int64_t columns = a.width / p, patches = a.height / p * columns;
  float *target = scratch, *buffer = scratch + values;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t image = a.rows[n] / patches, patch = a.rows[n] % patches;
    const int64_t top = patch / columns * p, left = patch % columns * p;
    for (int64_t r = 0; r < p; ++r) {
      float* out = target + r * line;
      load(a.image_type, a.images, ((image * a.height + top + r) * a.width + left) * a.channels, out, line);
      if (a.image_type == Type::u8) {
#pragma omp simd
        for (int64_t i = 0; i < line; ++i) out[i] = out[i] * a.scale[i] + a.shift[i];
      }
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
    float sum = 0;
    if (a.l1) {
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < values; ++i) {
        const float d = pred[i] - target[i];
        sum += __builtin_fabsf(d);
        grad[i] = (d > 0 ? a.grad_scale : 0.0f) - (d < 0 ? a.grad_scale : 0.0f);
      }
    } else {
      const float factor = 2 * a.grad_scale;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < values; ++i) {
        const float d = pred[i] - target[i];
        sum += d * d;
        grad[i] = d * factor;
      }
    }
    sums[n] = sum;
    if (a.grad && !direct) store(a.pred_type, buffer, a.grad, n * values, values);
  }
}

}  // namespace fastmim::FASTMIM_ISA
