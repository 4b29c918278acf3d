// The transform is a product with tables of waves along each side, forward and back. With cosines and sines for waves,
// all numbers are real. Multiply-adds per n x n channel with F waves a side (81 at radius 40), using the mirror
// symmetry of Side:
//   rows of the image -> vertical waves    n (n / 4) F          224, radius 40:  1.0 M
//   columns -> horizontal waves            F (n / 4) F                           0.4 M
//   kept frequencies -> columns            2 F (n / 4) F                         0.7 M  (real and imaginary part)
//   back to rows                           2 n (n / 4) F                         2.0 M
// The sum is 4.1 M multiply-adds with 2 flops each, in loops without a shuffle. An FFT of that size takes 5.9 M flops
// (real forward transform 2.5 n^2 log2 n^2, complex inverse 5 n^2 log2 n^2), of which few are multiply-adds. The FFT
// saves little by the frequencies that the disc removes.
#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

constexpr int64_t lanes = low_pass_lanes;

// Eight values; Loose may be at any address.
using Vec = float __attribute__((vector_size(32)));
using Loose = float __attribute__((vector_size(32), aligned(4), may_alias));

// Computes out[r] = sum over k of table[r][k] * x[k] for 3 rows r, on `VECS` vectors each.
template <int VECS>
void product(const float* table, int64_t terms, const float* x, int64_t stride, float* out, int64_t out_stride) {
  Vec sum[3][VECS] = {};
  for (int64_t k = 0; k < terms; ++k) {
    Vec value[VECS];
#pragma GCC unroll 4
    for (int i = 0; i < VECS; ++i) value[i] = *reinterpret_cast<const Loose*>(x + k * stride + 8 * i);
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r) {
      const float factor = table[r * terms + k];
#pragma GCC unroll 4
      for (int i = 0; i < VECS; ++i) sum[r][i] += value[i] * factor;
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < 3; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < VECS; ++i) *reinterpret_cast<Loose*>(out + r * out_stride + 8 * i) = sum[r][i];
  }
}

// Computes the same for any multiple of 3 rows, on `width` values: a multiple of 8, at most 32.
void products(const float* table, int64_t rows, int64_t terms, const float* x, int64_t stride, int64_t width,
              float* out, int64_t out_stride) {
  for (int64_t r = 0; r < rows; r += 3, table += 3 * terms, out += 3 * out_stride) {
    if (width == 32) {
      product<4>(table, terms, x, stride, out, out_stride);
    } else if (width == 24) {
      product<3>(table, terms, x, stride, out, out_stride);
    } else if (width == 16) {
      product<2>(table, terms, x, stride, out, out_stride);
    } else {
      product<1>(table, terms, x, stride, out, out_stride);
    }
  }
}

// Writes out[j][i] = x[i][j]. Rows and columns are multiples of 8.
void transpose(const float* x, int64_t rows, int64_t columns, int64_t stride, float* out, int64_t out_stride) {
  for (int64_t i = 0; i < rows; i += 8) {
    for (int64_t j = 0; j < columns; j += 8) {
      const float* in = x + i * stride + j;
      float* to = out + j * out_stride + i;
#ifdef __AVX2__
      __m256 a[8], b[8];
      // Load lines i and i + 4 side by side, then transpose 4 x 4 blocks in each half.
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        for (int half = 0; half < 2; ++half) {
          a[k + 4 * half] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(in + k * stride + 4 * half)),
                                                 _mm_loadu_ps(in + (k + 4) * stride + 4 * half), 1);
        }
      }
#pragma GCC unroll 2
      for (int k = 0; k < 8; k += 4) {
        b[k] = _mm256_unpacklo_ps(a[k], a[k + 1]);
        b[k + 1] = _mm256_unpackhi_ps(a[k], a[k + 1]);
        b[k + 2] = _mm256_unpacklo_ps(a[k + 2], a[k + 3]);
        b[k + 3] = _mm256_unpackhi_ps(a[k + 2], a[k + 3]);
        _mm256_storeu_ps(to + k * out_stride, _mm256_shuffle_ps(b[k], b[k + 2], 0x44));
        _mm256_storeu_ps(to + (k + 1) * out_stride, _mm256_shuffle_ps(b[k], b[k + 2], 0xee));
        _mm256_storeu_ps(to + (k + 2) * out_stride, _mm256_shuffle_ps(b[k + 1], b[k + 3], 0x44));
        _mm256_storeu_ps(to + (k + 3) * out_stride, _mm256_shuffle_ps(b[k + 1], b[k + 3], 0xee));
      }
#else
      for (int64_t r = 0; r < 8; ++r) {
        for (int64_t c = 0; c < 8; ++c) to[c * out_stride + r] = in[r * stride + c];
      }
#endif
    }
  }
}

// Finds the pixels that share place k of the tables. If two of them are the same pixel, the tables count each as half.
void members(const Side& side, int64_t k, int64_t* pixel) {
  const int64_t half = side.size / 2;
  pixel[0] = half + k;
  if (side.parts == 4) {
    pixel[1] = half - 1 - k;
    pixel[2] = side.size - 1 - k;
    pixel[3] = k;
  } else {
    pixel[1] = half - k;
  }
}

// Combines the values of pixels that share a place into the factors of each part of the waves, `step` values apart.
void fold(int64_t parts, const float* const* x, int64_t width, float* out, int64_t step) {
  const float *a = x[0], *b = x[1], *c = x[parts - 2], *d = x[parts - 1];
  if (parts == 2) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      out[i] = a[i] + b[i];
      out[step + i] = a[i] - b[i];
    }
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float sum = a[i] + b[i], far_sum = c[i] + d[i], difference = a[i] - b[i], far_difference = c[i] - d[i];
    out[i] = sum + far_sum;
    out[step + i] = sum - far_sum;
    out[2 * step + i] = difference - far_difference;
    out[3 * step + i] = difference + far_difference;
  }
}

// The transpose of fold: distributes the results of each part to the pixels that share a place.
void unfold(int64_t parts, const float* x, int64_t step, int64_t width, float* const* out) {
  float *a = out[0], *b = out[1], *c = out[parts - 2], *d = out[parts - 1];
  if (parts == 2) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float even = x[i], odd = x[step + i];
      a[i] = even + odd;
      b[i] = even - odd;
    }
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float even = x[i] + x[step + i], odd = x[2 * step + i] + x[3 * step + i];
    const float far_even = x[i] - x[step + i], far_odd = x[3 * step + i] - x[2 * step + i];
    a[i] = even + odd;
    b[i] = even - odd;
    c[i] = far_even + far_odd;
    d[i] = far_even - far_odd;
  }
}

// Returns `width` values of line y of an image from position n on, as floats: in place, or in `buffer` (32 or more).
const float* line(const LowPass& a, int64_t image, int64_t y, int64_t n, int64_t width, float* buffer) {
  const int64_t start = (image * a.images.height + y) * a.images.width * a.images.channels + n;
  if (a.source_type == Type::f32 && width == lanes) return static_cast<const float*>(a.source) + start;
  load(a.source_type, a.source, start, buffer, width);
  if (a.source_type == Type::u8) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) buffer[i] = buffer[i] * a.scale[n + i] + a.shift[n + i];
  }
  for (int64_t i = width; i < lanes; ++i) buffer[i] = 0;
  return buffer;
}

// Applies the disc to the waves of one channel. `real` holds the waves; the result is the waves of the real and of the
// imaginary part. With cc the coefficient of cos(u y) cos(v x), sc that of sin(u y) cos(v x), and so on, the
// frequencies (u, v) and (-u, -v) have cc - ss and sc + cs; (u, -v) and (-u, v) have cc + ss and sc - cs.
void keep(const LowPass& a, int64_t stride, float* real, float* imaginary) {
  const int64_t across = frequencies_of(a.horizontal), down = frequencies_of(a.vertical);
  for (int64_t v = 0; v < across; ++v) {
    float *cos = real + v * stride, *sin = real + (across + v) * stride;
    if (a.odd_same) {
      float *i_cos = imaginary + v * stride, *i_sin = imaginary + (across + v) * stride;
      const float *same = a.odd_same + v * down, *opposite = a.odd_opposite + v * down;
#pragma omp simd
      for (int64_t u = 0; u < down; ++u) {
        const float cc = cos[u], sc = cos[down + u], cs = sin[u], ss = sin[down + u];
        i_cos[u] = -same[u] * (sc + cs) - opposite[u] * (sc - cs);
        i_cos[down + u] = same[u] * (cc - ss) + opposite[u] * (cc + ss);
        i_sin[u] = same[u] * (cc - ss) - opposite[u] * (cc + ss);
        i_sin[down + u] = same[u] * (sc + cs) - opposite[u] * (sc - cs);
      }
    }
    const float *same = a.even_same + v * down, *opposite = a.even_opposite + v * down;
#pragma omp simd
    for (int64_t u = 0; u < down; ++u) {
      const float cc = cos[u], sc = cos[down + u], cs = sin[u], ss = sin[down + u];
      cos[u] = same[u] * (cc - ss) + opposite[u] * (cc + ss);
      cos[down + u] = same[u] * (sc + cs) + opposite[u] * (sc - cs);
      sin[u] = same[u] * (sc + cs) - opposite[u] * (sc - cs);
      sin[down + u] = opposite[u] * (cc + ss) - same[u] * (cc - ss);
    }
  }
}

// Calls each(from, to, wanted) for each patch that intersects `width` values of line y from position n on.
template <class Each>
void stretches(const LowPass& a, int64_t image, int64_t y, int64_t n, int64_t width, Each each) {
  const int64_t line = line_of(a.images), columns = a.images.width / a.images.patch_size;
  const bool* wanted = a.wanted + image * patches_of(a.images) + y / a.images.patch_size * columns;
  for (int64_t from = n, column = n / line; from < n + width; ++column) {
    const int64_t edge = (column + 1) * line, to = edge < n + width ? edge : n + width;
    each(from, to, wanted[column]);
    from = to;
  }
}

// Writes `width` values of line y from position n on, given their real and imaginary parts (null = zero).
void finish(const LowPass& a, int64_t image, int64_t y, int64_t n, int64_t width, float* real, const float* imaginary) {
  const float* mean = a.mean + n;
  if (imaginary) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float x = real[i] + mean[i];
      real[i] = __builtin_sqrtf(x * x + imaginary[i] * imaginary[i]) - mean[i];
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) real[i] = __builtin_fabsf(real[i] + mean[i]) - mean[i];
  }
  const int64_t start = (image * a.images.height + y) * a.images.width * a.images.channels;
  stretches(a, image, y, n, width, [&](int64_t from, int64_t to, bool wanted) {
    const int64_t bytes = (to - from) * sizeof(float);
    if (wanted) {
      memcpy(a.out + start + from, real + from - n, bytes);
    } else {
      memset(a.out + start + from, 0, bytes);
    }
  });
}

}  // namespace

void low_pass_images(const LowPass& a, int64_t begin, int64_t end, float* scratch) {
  const Side &down = a.vertical, &across = a.horizontal;
  const int64_t channels = a.images.channels, values = a.images.width * channels, line_end = round_up(values, lanes);
  const int64_t stride = round_up(2 * frequencies_of(down), 8), across_waves = 2 * frequencies_of(across);
  const int64_t down_groups = round_up(down.groups, 3), across_groups = round_up(across.groups, 3);
  float* panel = scratch;  // (parts, groups, lanes)
  float* block = panel + 4 * (down_groups > across_groups ? down_groups : across_groups) * lanes;  // (stride, lanes)
  float* imaginary_block = block + stride * lanes;
  float* columns = imaginary_block + stride * lanes;  // (W C, stride): vertical waves of each column
  float* imaginary_columns = columns + line_end * stride;
  float* waves = imaginary_columns + line_end * stride;  // (across_waves, stride): waves of one channel
  float* imaginary_waves = waves + across_waves * stride;
  alignas(32) float buffer[4][lanes], sums[2][12 * lanes];
  alignas(32) float lines[2][4][lanes] = {};  // read without effect where no patch is wanted
  int64_t pixel[4];
  const float* in[4];
  float* out[4];

  for (int64_t image = begin; image < end; ++image) {
    for (int64_t n = 0; n < values; n += lanes) {
      const int64_t width = values - n < lanes ? values - n : lanes, step = down.groups * lanes;
      for (int64_t k = 0; k < down.groups; ++k) {
        members(down, k, pixel);
        for (int64_t m = 0; m < down.parts; ++m) in[m] = line(a, image, pixel[m], n, width, buffer[m]);
        fold(down.parts, in, lanes, panel + k * lanes, step);
      }
      for (int64_t q = 0; q < down.parts; ++q) {
        const float* table = down.forward + q * down.waves * down.groups;
        products(table, down.waves, down.groups, panel + q * step, lanes, lanes, block + q * down.waves * lanes, lanes);
      }
      transpose(block, stride, lanes, lanes, columns + n * stride, stride);
    }

    for (int64_t channel = 0; channel < channels; ++channel) {
      for (int64_t r = 0; r < stride; r += lanes) {
        const int64_t width = stride - r < lanes ? stride - r : lanes, step = across.groups * lanes;
        for (int64_t k = 0; k < across.groups; ++k) {
          members(across, k, pixel);
          for (int64_t m = 0; m < across.parts; ++m) in[m] = columns + (pixel[m] * channels + channel) * stride + r;
          fold(across.parts, in, width, panel + k * lanes, step);
        }
        for (int64_t q = 0; q < across.parts; ++q) {
          const float* table = across.forward + q * across.waves * across.groups;
          float* to = waves + q * across.waves * stride + r;
          products(table, across.waves, across.groups, panel + q * step, lanes, width, to, stride);
        }
      }
      keep(a, stride, waves, imaginary_waves);
      for (int64_t imaginary = 0; imaginary < (a.odd_same ? 2 : 1); ++imaginary) {
        const float* from = imaginary ? imaginary_waves : waves;
        float* to = imaginary ? imaginary_columns : columns;
        for (int64_t r = 0; r < stride; r += lanes) {
          const int64_t width = stride - r < lanes ? stride - r : lanes, step = across_groups * lanes;
          for (int64_t q = 0; q < across.parts; ++q) {
            const float* table = across.inverse + q * across_groups * across.waves;
            const float* part = from + q * across.waves * stride + r;
            products(table, across_groups, across.waves, part, stride, width, panel + q * step, lanes);
          }
          for (int64_t k = 0; k < across.groups; ++k) {
            members(across, k, pixel);
            for (int64_t m = 0; m < across.parts; ++m) out[m] = to + (pixel[m] * channels + channel) * stride + r;
            unfold(across.parts, panel + k * lanes, step, width, out);
          }
        }
      }
    }

    for (int64_t n = 0; n < values; n += lanes) {
      const int64_t width = values - n < lanes ? values - n : lanes;
      transpose(columns + n * stride, lanes, stride, stride, block, lanes);
      if (a.odd_same) transpose(imaginary_columns + n * stride, lanes, stride, stride, imaginary_block, lanes);
      for (int64_t k = 0; k < down.groups; k += 3) {
        const int64_t rows = down.groups - k < 3 ? down.groups - k : 3;
        bool any = false;
        for (int64_t i = 0; i < rows; ++i) {
          members(down, k + i, pixel);
          for (int64_t m = 0; m < down.parts; ++m) {
            stretches(a, image, pixel[m], n, width, [&](int64_t, int64_t, bool wanted) { any |= wanted; });
          }
        }
        for (int64_t imaginary = 0; any && imaginary < (a.odd_same ? 2 : 1); ++imaginary) {
          for (int64_t q = 0; q < down.parts; ++q) {
            const float* table = down.inverse + (q * down_groups + k) * down.waves;
            const float* part = (imaginary ? imaginary_block : block) + q * down.waves * lanes;
            products(table, 3, down.waves, part, lanes, lanes, sums[imaginary] + q * 3 * lanes, lanes);
          }
        }
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t imaginary = 0; any && imaginary < (a.odd_same ? 2 : 1); ++imaginary) {
            for (int64_t m = 0; m < down.parts; ++m) out[m] = lines[imaginary][m];
            unfold(down.parts, sums[imaginary] + i * lanes, 3 * lanes, lanes, out);
          }
          members(down, k + i, pixel);
          for (int64_t m = 0; m < down.parts; ++m) {
            finish(a, image, pixel[m], n, width, lines[0][m], a.odd_same ? lines[1][m] : nullptr);
          }
        }
      }
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
