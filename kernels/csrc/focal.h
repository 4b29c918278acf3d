// Focal losses of magnitudes, written so that compilers vectorise them. For op bodies, see body.h.
#pragma once

#include "body.h"

namespace fastmim {

struct FocalL1 {
  float alpha, gamma;  // gamma >= 1
};

namespace {

// exp(min(y, 40)) - 1 for y >= 0, with a relative error below 3e-7.
inline float expm1_of(float y) {
  y = y < 40.0f ? y : 40.0f;
  const auto k = static_cast<int32_t>(y * 1.44269504f + 0.5f);
  const float kf = static_cast<float>(k);
  const float r = (y - kf * 0.693359375f) + kf * 2.12194440e-4f;
  const float series = 1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r / 5040))));
  const float power = float_of(static_cast<uint32_t>(k + 127) << 23);
  return power * (r + r * r * series) + (power - 1.0f);
}

// tanh(y / 2) for y >= 0.
inline float tanh_of_half(float y) {
  const float e = expm1_of(y);
  return e / (e + 2.0f);
}

// m tanh(alpha m / 2)^gamma for m >= 0, and its derivative.
template <bool gamma_is_1>
inline void focal_l1(FocalL1 a, float m, float& value, float& slope) {
  const float t = tanh_of_half(a.alpha * m);
  const float w = gamma_is_1 ? 1.0f : __builtin_powf(t, a.gamma - 1);
  value = m * (t * w);
  slope = w * (t + m * (a.gamma * 0.5f * a.alpha) * (1.0f - t * t));
}

// log(1 + x) for x >= 0: the logarithm of the rounded sum, plus a correction for the rounding.
inline float log1p_of(float x) {
  const float y = 1.0f + x;
  const uint32_t bits = bits_of(y), offset = bits - 0x3f3504f3u;  // offset from sqrt(1/2), where mantissas begin
  const float power = static_cast<float>(static_cast<int32_t>(offset) >> 23);
  const float mantissa = float_of((offset & 0x7fffffu) + 0x3f3504f3u);
  const float f = (mantissa - 1.0f) / (mantissa + 1.0f), g = f * f;
  const float series = 2.0f * f * (1.0f + g * (1.0f / 3 + g * (1.0f / 5 + g * (1.0f / 7 + g / 9))));
  const float log = power * 0.693147181f + series + (x - (y - 1.0f)) / y;
  return y < __builtin_inff() ? log : y;
}

}  // namespace
}  // namespace fastmim
