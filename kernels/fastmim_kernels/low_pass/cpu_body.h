// Low-pass filter of some images, on plain pointers. cpu_body.cpp describes the method.
#pragma once

#include "body.h"

namespace fastmim {

// One side of the image and its waves, cos(2 pi f y / n) and sin(2 pi f y / n) with y counted from the middle.
//
// Pixels that mirror each other about the middle have the same cosines, and sines of opposite sign. If the number of
// pixels is even, pixels that mirror each other about a quarter of the side share waves too, with the sign (-1)^f. So
// waves come in 4 parts: cosines of even and of odd f, then sines of even and of odd f. For an odd number of pixels,
// waves come in 2 parts: cosines, then sines. Each group of `parts` pixels that share waves has one place in the
// tables.
struct Side {
  int64_t size, parts, groups, waves;  // pixels; parts; places; waves in each part, a multiple of 3 (some may be zero)
  const float* forward;                // (parts, waves, groups)
  const float* inverse;                // (parts, groups rounded up to a multiple of 3, waves)
};

struct LowPass {
  Images images;
  const void* source;
  Type source_type;
  const float* scale;  // (W C,): a uint8 value x at position i of a line becomes x * scale[i] + shift[i]
  const float* shift;
  const float* mean;   // (W C,): mean of the pixels divided by their std
  const bool* wanted;  // (B, patches): patches to write; the others become 0
  Side vertical, horizontal;
  // (horizontal frequencies, vertical frequencies): factors on the waves whose two frequencies have the same sign, and
  // on those with opposite signs. `even` gives the real part, `odd` the imaginary part. `odd_same` is null if the
  // imaginary part is zero.
  const float *even_same, *even_opposite, *odd_same, *odd_opposite;
  float* out;
};

namespace {

constexpr int64_t low_pass_lanes = 32;  // values that the innermost loops handle at a time

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline int64_t frequencies_of(const Side& side) { return side.parts / 2 * side.waves; }

// Floats of scratch for low_pass_images, zero before the first call.
inline int64_t low_pass_scratch(const LowPass& a) {
  const int64_t stride = round_up(2 * frequencies_of(a.vertical), 8);
  const int64_t line = round_up(a.images.width * a.images.channels, low_pass_lanes);
  const int64_t groups = a.vertical.groups > a.horizontal.groups ? a.vertical.groups : a.horizontal.groups;
  return low_pass_lanes * (4 * round_up(groups, 3) + 2 * stride) +
         2 * stride * (line + 2 * frequencies_of(a.horizontal));
}

}  // namespace

// Filters images begin..end.
using LowPassImages = void(const LowPass&, int64_t begin, int64_t end, float* scratch);
FASTMIM_DECLARE(LowPassImages, low_pass_images)

}  // namespace fastmim
