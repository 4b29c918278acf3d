// Shared parts of op bodies: element types, conversions and the choice of instruction set. Do not include torch or
// inline functions of the standard library here. A body is compiled once per instruction set, and the linker keeps only
// one copy of an inline function, possibly a copy that this machine cannot run.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

// One namespace per instruction set, as listed in CMakeLists.txt. Add a set only with a measurement that shows its
// gain.
#if defined(__x86_64__)
#define FASTMIM_DECLARE(signature, name) \
  namespace plain { signature name; }    \
  namespace avx2 { signature name; }
#define FASTMIM_HAS_AVX2 \
  (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
#define FASTMIM_CHOOSE(name) (FASTMIM_HAS_AVX2 ? avx2::name : plain::name)
#else
#define FASTMIM_DECLARE(signature, name) \
  namespace plain { signature name; }
#define FASTMIM_HAS_AVX2 false
#define FASTMIM_CHOOSE(name) plain::name
#endif

namespace fastmim {

enum class Type { f32, bf16, f16, u8 };

inline constexpr int64_t size_of(Type type) { return type == Type::f32 ? 4 : type == Type::u8 ? 1 : 2; }

// An image batch (B, H, W, C) with patches of patch_size x patch_size pixels. Its functions are below, in a namespace
// that instruction sets do not share.
struct Images {
  int64_t height, width, channels, patch_size;
};

namespace {

inline uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

inline float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

inline uint16_t to_bf16(float x) {
  const uint32_t u = bits_of(x), magnitude = u & 0x7fffffff;
  const uint32_t nearest_even = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(magnitude > 0x7f800000 ? (u >> 16) | 0x40 : nearest_even);
}

#ifdef __AVX2__
// Converts eight values at a time; the results are in the low halves.
inline __m256i to_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i nearest_even = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 chosen = _mm256_blendv_ps(_mm256_castsi256_ps(nearest_even), _mm256_castsi256_ps(quiet), nan);
  return _mm256_srli_epi32(_mm256_castps_si256(chosen), 16);
}
#endif

inline float from_f16(uint16_t h) {
  const uint32_t magnitude = h & 0x7fffu;
  // Read as bits of a float, the half is 2^112 too small. The product is exact, also for subnormals.
  uint32_t u = bits_of(float_of(magnitude << 13) * 0x1p112f);
  u |= magnitude >= 0x7c00 ? 0x7f800000u : 0u;
  return float_of(u | (h & 0x8000u) << 16);
}

inline uint16_t to_f16(float x) {
  const uint32_t u = bits_of(x) & 0x7fffffff, sign = (bits_of(x) >> 16) & 0x8000;
  const uint32_t normal = (u - (112u << 23) + 0xfff + ((u >> 13) & 1)) >> 13;
  // Floats at 0.5 are 2^-24 apart, as half subnormals are, so the addition rounds correctly.
  const uint32_t subnormal = bits_of(float_of(u) + 0.5f) - bits_of(0.5f);
  const uint32_t special = u > 0x7f800000 ? 0x7e00 : 0x7c00;
  return static_cast<uint16_t>(sign | (u < 0x38800000 ? subnormal : u < 0x47800000 ? normal : special));
}

// Reads n values of `type`, starting at element `offset`.
inline void load(Type type, const void* source, int64_t offset, float* out, int64_t n) {
  int64_t i = 0;
  if (type == Type::f32) {
    memcpy(out, static_cast<const float*>(source) + offset, n * sizeof(float));
  } else if (type == Type::u8) {
    const auto* in = static_cast<const uint8_t*>(source) + offset;
#pragma omp simd
    for (i = 0; i < n; ++i) out[i] = static_cast<float>(static_cast<int32_t>(in[i]));
  } else if (type == Type::bf16) {
    const auto* in = static_cast<const uint16_t*>(source) + offset;
#pragma omp simd
    for (i = 0; i < n; ++i) out[i] = float_of(static_cast<uint32_t>(in[i]) << 16);
  } else {
    const auto* in = static_cast<const uint16_t*>(source) + offset;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
      _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
    }
#endif
    for (; i < n; ++i) out[i] = from_f16(in[i]);
  }
}

// Writes n values as `type`, round to nearest even, starting at element `offset`.
inline void store(Type type, const float* in, void* target, int64_t offset, int64_t n) {
  int64_t i = 0;
  if (type == Type::f32) {
    memcpy(static_cast<float*>(target) + offset, in, n * sizeof(float));
  } else if (type == Type::bf16) {
    auto* out = static_cast<uint16_t*>(target) + offset;
#ifdef __AVX2__
    for (; i + 16 <= n; i += 16) {
      const __m256i halves = _mm256_packus_epi32(to_bf16(_mm256_loadu_ps(in + i)), to_bf16(_mm256_loadu_ps(in + i + 8)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_permute4x64_epi64(halves, 0xd8));
    }
#endif
    for (; i < n; ++i) out[i] = to_bf16(in[i]);
  } else {
    auto* out = static_cast<uint16_t*>(target) + offset;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), 0));
    }
#endif
    for (; i < n; ++i) out[i] = to_f16(in[i]);
  }
}

// Copies past the cache, for large results that are written once, so that other data stay in the cache. Call `streamed`
// before other threads read the target.
inline void stream(void* target, const void* source, int64_t bytes) {
#ifdef __x86_64__
  if ((reinterpret_cast<uintptr_t>(target) | bytes) % 16 == 0) {
    auto* out = static_cast<__m128i*>(target);
    const auto* in = static_cast<const __m128i*>(source);
    for (int64_t i = 0; i < bytes / 16; ++i) _mm_stream_si128(out + i, _mm_loadu_si128(in + i));
    return;
  }
#endif
  memcpy(target, source, bytes);
}

inline void streamed() {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

// Returns n values of `type` from element `offset` on as floats: in place if they are floats, else in `buffer`.
inline const float* floats(Type type, const void* source, int64_t offset, float* buffer, int64_t n) {
  if (type == Type::f32) return static_cast<const float*>(source) + offset;
  load(type, source, offset, buffer, n);
  return buffer;
}

// Normalises pixels: (x / 255 - mean) / std, rounded after each step.
inline void normalize_pixels(const uint8_t* in, const float* mean, const float* std, float* out, int64_t n) {
  // x / 255 must be right to the last bit, because near the mean one bit of x / 255 is many bits of the result. With
  // 1 / 255 = 65793 / 2^24 + 1 / (255 2^24) the first product is exact, because 255 * 65793 < 2^24. A second division
  // would double the time.
  constexpr float head = 65793 * 0x1p-24f, tail = 0x1p-24f / 255;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float value = static_cast<float>(static_cast<int32_t>(in[i]));
    out[i] = (value * head + value * tail - mean[i]) / std[i];
  }
}

inline int64_t line_of(const Images& x) { return x.patch_size * x.channels; }  // values of one line of a patch
inline int64_t values_of(const Images& x) { return x.patch_size * line_of(x); }
inline int64_t patches_of(const Images& x) { return x.height / x.patch_size * (x.width / x.patch_size); }

// The first value of a patch. The next line of the patch begins width * channels values further.
inline int64_t start_of(const Images& x, int64_t image, int64_t patch) {
  const int64_t p = x.patch_size, columns = x.width / p;
  return ((image * x.height + patch / columns * p) * x.width + patch % columns * p) * x.channels;
}

// Copies a few dozen bytes, for which a call of memcpy would take longer than the copy.
inline void copy(char* out, const char* in, int64_t bytes) {
  if (bytes >= 8 && bytes < 16) {
    uint64_t first, last;  // read both before writing, so that the compiler may reorder copies
    memcpy(&first, in, 8);
    memcpy(&last, in + bytes - 8, 8);
    memcpy(out, &first, 8);
    memcpy(out + bytes - 8, &last, 8);
    return;
  }
  if (bytes < 8 || bytes > 256) {
    memcpy(out, in, bytes);
    return;
  }
  for (int64_t i = 0; i + 16 < bytes; i += 16) memcpy(out + i, in + i, 16);
  memcpy(out + bytes - 16, in + bytes - 16, 16);
}

// Copies the lines of a patch to contiguous memory.
inline void copy_patch(const Images& images, const void* source, int64_t size, int64_t start, void* out) {
  const int64_t bytes = line_of(images) * size, stride = images.width * images.channels * size;
  const char* in = static_cast<const char*>(source) + start * size;
  for (int64_t r = 0; r < images.patch_size; ++r) copy(static_cast<char*>(out) + r * bytes, in + r * stride, bytes);
}

}  // namespace
}  // namespace fastmim
