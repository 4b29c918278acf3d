// Prediction minus target, patch by patch, and the losses of single residuals. For op bodies, see body.h.
#pragma once

#include "focal.h"

namespace fastmim {

struct Residuals {
  const void* pred;  // (B L, P)
  Type pred_type;
  const void* images;  // (B, H, W, C)
  Type image_type;
  Images shape;
  const float* scale;  // (P,): a uint8 value x at position i of a patch becomes x * scale[i] + shift[i]
  const float* shift;
};

enum class ElementLoss { l1, l2, focal_l1 };

namespace {

// Reads the values of a patch and converts them to float. buffer: P floats.
inline void load_patch(const Residuals& a, int64_t image, int64_t patch, float* out, float* buffer) {
  const int64_t start = start_of(a.shape, image, patch);
  if (a.image_type == Type::f32) {
    copy_patch(a.shape, a.images, sizeof(float), start, out);
  } else {  // lines are short, so copy them together first and convert them in one long loop
    copy_patch(a.shape, a.images, size_of(a.image_type), start, buffer);
    load(a.image_type, buffer, 0, out, values_of(a.shape));
  }
}

// Computes the target of a patch, and prediction minus target: P floats each.
inline void residual(const Residuals& a, int64_t row, int64_t image, int64_t patch, float* target, float* d) {
  const int64_t values = values_of(a.shape);
  load_patch(a, image, patch, target, d);
  const float *scale = a.scale, *shift = a.shift;
  const float* pred = floats(a.pred_type, a.pred, row * values, d, values);
  if (a.image_type == Type::u8) {
#pragma omp simd
    for (int64_t i = 0; i < values; ++i) {
      target[i] = target[i] * scale[i] + shift[i];
      d[i] = pred[i] - target[i];
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < values; ++i) d[i] = pred[i] - target[i];
  }
}

}  // namespace
}  // namespace fastmim
