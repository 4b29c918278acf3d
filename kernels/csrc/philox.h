// Philox 4x32-10 (Salmon et al., SC 2011), the numbers of the op philox. For op bodies, see body.h.
#pragma once

#include "body.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace fastmim {
namespace {

inline constexpr int64_t philox_lanes = 16;  // enough independent chains of multiplications to keep the processor busy

// Writes the 4 words of each of 16 counters, one counter after another. counters[w][i] is word w of counter i.
inline void philox_words(uint64_t seed, const uint64_t (&counters)[4][philox_lanes], uint32_t* words) {
#ifdef __AVX2__
  typedef uint64_t Vector __attribute__((vector_size(32)));
  // Without this intrinsic the compiler packs and unpacks halves around every product, which takes 2.5 times as long.
  const auto product = [](const Vector& a, const Vector& b) {
    return reinterpret_cast<Vector>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  };
#else
  typedef uint64_t Vector __attribute__((vector_size(16)));
  const auto product = [](const Vector& a, const Vector& b) { return (a & 0xffffffff) * b; };
#endif
  constexpr int width = sizeof(Vector) / sizeof(uint64_t), vectors = philox_lanes / width;
  const Vector zero{}, multiplier[2] = {zero + 0xd2511f53, zero + 0xcd9e8d57};
  // The high half of each lane holds the rest of a product. No later product reads it.
  Vector c[4][vectors];
  for (int w = 0; w < 4; ++w) {
    for (int v = 0; v < vectors; ++v) memcpy(&c[w][v], &counters[w][v * width], sizeof(Vector));
  }
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Vector k0 = zero + key[0], k1 = zero + key[1];
    for (int v = 0; v < vectors; ++v) {
      const Vector even = product(c[0][v], multiplier[0]), odd = product(c[2][v], multiplier[1]);
      c[0][v] = (odd >> 32) ^ c[1][v] ^ k0;
      c[1][v] = odd;
      c[2][v] = (even >> 32) ^ c[3][v] ^ k1;
      c[3][v] = even;
    }
    key[0] += 0x9e3779b9;
    key[1] += 0xbb67ae85;
  }
  uint64_t first[philox_lanes], last[philox_lanes], pairs[2 * philox_lanes];
  for (int v = 0; v < vectors; ++v) {
    const Vector a = (c[0][v] & 0xffffffff) | c[1][v] << 32, b = (c[2][v] & 0xffffffff) | c[3][v] << 32;
    memcpy(first + v * width, &a, sizeof(Vector));
    memcpy(last + v * width, &b, sizeof(Vector));
  }
  for (int i = 0; i < philox_lanes; ++i) {
    pairs[2 * i] = first[i];
    pairs[2 * i + 1] = last[i];
  }
  memcpy(words, pairs, sizeof pairs);
}

}  // namespace
}  // namespace fastmim
