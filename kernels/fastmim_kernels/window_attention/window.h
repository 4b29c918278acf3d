// Shared parts of window attention and its gradients: small matrix products, and the weights of a window.
#pragma once

#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

#ifdef __AVX__
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// Pads rows of matrices to whole vectors of any instruction set.
inline int64_t padded(int64_t n) { return (n + 7) / 8 * 8; }

inline Floats read(const float* x) {
  Floats v;
  memcpy(&v, x, sizeof v);
  return v;
}

inline void write(float* x, Floats v) { memcpy(x, &v, sizeof v); }

// The product c = a b, or c += a b if `add`, of a (rows x k) and b (k x n). Element (i, j) of a is
// a[i * a_row + j * a_column]; n is padded.
struct Product {
  const float* a;
  int64_t a_row, a_column;
  const float* b;
  int64_t b_row;
  float* c;
  int64_t c_row, rows, n, k;
  bool add;
};

// Computes the tile of c from row i and column j on, which fits the registers.
template <int rows, int vectors>
__attribute__((always_inline)) inline void tile(const Product& x, int64_t i, int64_t j) {
  Floats sum[rows][vectors];
  float* c = x.c + i * x.c_row + j;
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[r][v] = x.add ? read(c + r * x.c_row + v * kLanes) : Floats{};
  }
  const float *a = x.a + i * x.a_row, *b = x.b + j;
  for (int64_t k = 0; k < x.k; ++k, a += x.a_column, b += x.b_row) {
    Floats right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) right[v] = read(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] += a[r * x.a_row] * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) write(c + r * x.c_row + v * kLanes, sum[r][v]);
  }
}

template <int vectors>
inline void columns(const Product& x, int64_t j) {
  int64_t i = 0;
  for (; i + 6 <= x.rows; i += 6) tile<6, vectors>(x, i, j);
  switch (x.rows - i) {
    case 5: return tile<5, vectors>(x, i, j);
    case 4: return tile<4, vectors>(x, i, j);
    case 3: return tile<3, vectors>(x, i, j);
    case 2: return tile<2, vectors>(x, i, j);
    case 1: return tile<1, vectors>(x, i, j);
  }
}

inline void multiply(const Product& x) {
  int64_t j = 0;
  for (; j + 2 * kLanes <= x.n; j += 2 * kLanes) columns<2>(x, j);
  if (j < x.n) columns<1>(x, j);
}

// e^x for x <= 0, within 2 units in the last place; 0 below -87, where floats lose precision. NaN stays NaN.
inline Floats exponential(Floats x) {
  // Adding 1.5 * 2^23 rounds to an integer, in the low bits of the sum.
  const Floats shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  y = (Floats)((Ints)y + ((Ints)shifted << 23));
  return x < -87.0f ? Floats{} : y;
}

inline Floats lookup(const float* table, const int32_t* places) {
#ifdef __AVX2__
  return _mm256_i32gather_ps(table, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(places)), 4);
#else
  Floats v;
  for (int64_t i = 0; i < kLanes; ++i) v[i] = table[places[i]];
  return v;
#endif
}

// One window: the places of its tokens in the map, and the bias on the scores of each pair.
struct Window {
  int64_t tokens, width;  // T, and padded
  int32_t *place, *code;  // (padded T): index of each token in the image, and its code
  int32_t* area;          // (T): index of the area, among the four that the roll can join
  float* apart;           // (4, padded T): per area of the query: 0, -100 for keys of other areas, -infinity for padding
};

// Allocates the arrays of a window in scratch.
inline Window window_in(const WindowAttention& a, float*& scratch) {
  Window w;
  w.tokens = tokens_of(a);
  w.width = padded(w.tokens);
  const auto take = [&](int64_t n) {
    float* x = scratch;
    scratch += n;
    return x;
  };
  w.apart = take(4 * w.width);
  w.place = reinterpret_cast<int32_t*>(take(w.width));
  w.code = reinterpret_cast<int32_t*>(take(w.width));
  w.area = reinterpret_cast<int32_t*>(take(w.width));
  return w;
}

// Fills in window n of an image.
inline void locate(const WindowAttention& a, int64_t image, int64_t n, Window& w) {
  const int64_t across = a.grid[1] / a.window[1], top = n / across * a.window[0], left = n % across * a.window[1];
  const int32_t* codes = a.codes + image * a.codes_stride;
  int64_t t = 0;
  for (int64_t r = top; r < top + a.window[0]; ++r) {
    const bool below = r >= a.grid[0] - a.shift[0];
    const int64_t row = r + a.shift[0] - (below ? a.grid[0] : 0);
    for (int64_t c = left; c < left + a.window[1]; ++c, ++t) {
      const bool beyond = c >= a.grid[1] - a.shift[1];
      w.place[t] = static_cast<int32_t>(row * a.grid[1] + c + a.shift[1] - (beyond ? a.grid[1] : 0));
      w.code[t] = codes[w.place[t]];
      w.area[t] = 2 * below + beyond;
    }
  }
  for (; t < w.width; ++t) w.code[t] = w.code[0];
  for (int32_t area = 0; area < 4; ++area) {
    float* apart = w.apart + area * w.width;
    for (int64_t i = 0; i < w.tokens; ++i) apart[i] = w.area[i] == area ? 0.0f : -100.0f;
    for (int64_t i = w.tokens; i < w.width; ++i) apart[i] = -__builtin_inff();
  }
}

// Reads the window's rows of `part` (0 q, 1 k, 2 v; of `parts`), times `factor`, into rows of padded(D) with zero
// padding.
inline void pack(const WindowAttention& a, const Window& w, const void* source, Type type, int64_t image, int64_t head,
                 int64_t part, int64_t parts, float factor, float* out) {
  const int64_t dim = a.dim, width = padded(dim), tokens = a.grid[0] * a.grid[1];
  for (int64_t t = 0; t < w.tokens; ++t, out += width) {
    const int64_t offset = (((image * tokens + w.place[t]) * parts + part) * a.heads + head) * dim;
    const float* in = floats(type, source, offset, out, dim);
    // The row of the next head follows in memory, but the hardware does not prefetch it between rows of other tokens.
    for (int64_t i = 0; i < dim * size_of(type); i += 64) {
      __builtin_prefetch(static_cast<const char*>(source) + (offset + dim) * size_of(type) + i);
    }
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) out[d] = factor * in[d];
    for (int64_t d = dim; d < width; ++d) out[d] = 0;
  }
}

// Writes rows begin..end of `part` to the target.
inline void unpack(const WindowAttention& a, const Window& w, const float* in, int64_t begin, int64_t end,
                   int64_t image, int64_t head, int64_t part, int64_t parts, void* target) {
  const int64_t dim = a.dim, tokens = a.grid[0] * a.grid[1];
  for (int64_t t = begin; t < end; ++t, in += padded(dim)) {
    store(a.type, in, target, (((image * tokens + w.place[t]) * parts + part) * a.heads + head) * dim, dim);
  }
}

// Transposes (T x padded D) to (D x padded T) with zero padding.
inline void transpose(const float* in, int64_t tokens, int64_t dim, float* out) {
  const int64_t width = padded(tokens), row = padded(dim);
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t t = 0; t < tokens; ++t) out[d * width + t] = in[t * row + d];
    for (int64_t t = tokens; t < width; ++t) out[d * width + t] = 0;
  }
}

// Replaces a row of products q . k of query i by unnormalised weights, 0 in the padding, and returns their sum.
inline float weigh(const Window& w, const float* table, int64_t i, float* row) {
  const float *bias = table - w.code[i], *apart = w.apart + w.area[i] * w.width;
  Floats most = Floats{} - __builtin_inff();
  for (int64_t j = 0; j < w.width; j += kLanes) {
    const Floats x = read(row + j) + lookup(bias, w.code + j) + read(apart + j);
    write(row + j, x);
    most = x > most ? x : most;
  }
  float largest = most[0];
  for (int64_t l = 1; l < kLanes; ++l) largest = most[l] > largest ? most[l] : largest;
  Floats sums{};
  for (int64_t j = 0; j < w.width; j += kLanes) {
    const Floats x = exponential(read(row + j) - largest);
    write(row + j, x);
    sums += x;
  }
  float sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += sums[l];
  return sum;
}

}  // namespace
}  // namespace fastmim::FASTMIM_ISA
