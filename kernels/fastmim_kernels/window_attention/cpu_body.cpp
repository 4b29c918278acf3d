#include "window.h"

namespace fastmim::FASTMIM_ISA {

void window_attention_items(const WindowAttention& a, int64_t begin, int64_t end, float* scratch) {
  Window w = window_in(a, scratch);
  const int64_t dim = a.dim, width = padded(dim), size = w.tokens * width;
  float *q = scratch, *k = q + size, *v = k + size, *k_turned = v + size;
  float *scores = k_turned + dim * w.width, *out = scores + window_rows * w.width;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t head = n % a.heads, image = n / a.heads / windows_of(a);
    if (n == begin || head == 0) locate(a, image, n / a.heads % windows_of(a), w);
    pack(a, w, a.qkv, a.type, image, head, 0, 3, a.scale, q);
    pack(a, w, a.qkv, a.type, image, head, 1, 3, 1, k);
    pack(a, w, a.qkv, a.type, image, head, 2, 3, 1, v);
    transpose(k, w.tokens, dim, k_turned);
    const float* table = a.table + head * a.offsets + a.origin;
    for (int64_t first = 0; first < w.tokens; first += window_rows) {
      const int64_t rows = w.tokens - first < window_rows ? w.tokens - first : window_rows;
      multiply({q + first * width, width, 1, k_turned, w.width, scores, w.width, rows, w.width, dim, false});
      float sums[window_rows];
      for (int64_t i = 0; i < rows; ++i) sums[i] = weigh(w, table, first + i, scores + i * w.width);
      multiply({scores, w.width, 1, v, width, out, width, rows, width, w.tokens, false});
      for (int64_t i = 0; i < rows; ++i) {
        const float factor = 1 / sums[i];
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) out[i * width + d] *= factor;
      }
      unpack(a, w, out, first, first + rows, image, head, 0, 1, a.out);
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
