#include "cpu_body.h"

#include "../window_attention/window.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Takes weights times `sum` and the gradients of the weights. Replaces them by the weights and the gradients of the
// scores.
void differentiate(float* weights, float* grads, float sum, int64_t n) {
  const float factor = 1 / sum;
  Floats inner{};
  for (int64_t j = 0; j < n; j += kLanes) {
    const Floats p = read(weights + j) * factor;
    write(weights + j, p);
    inner += p * read(grads + j);
  }
  float total = 0;
  for (int64_t l = 0; l < kLanes; ++l) total += inner[l];
  for (int64_t j = 0; j < n; j += kLanes) write(grads + j, read(weights + j) * (read(grads + j) - total));
}

}  // namespace

void window_attention_gradients(const WindowAttentionBackward& b, int64_t begin, int64_t end,
                                float* tables, float* scratch) {
  const WindowAttention& a = b.forward;
  Window w = window_in(a, scratch);
  const int64_t dim = a.dim, width = padded(dim), size = w.tokens * width;
  float *q = scratch, *k = q + size, *v = k + size, *grad = v + size, *k_grad = grad + size, *v_grad = k_grad + size;
  float *k_turned = v_grad + size, *v_turned = k_turned + dim * w.width;
  float *weights = v_turned + dim * w.width, *grads = weights + window_rows * w.width;
  float* q_grad = grads + window_rows * w.width;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t head = n % a.heads, image = n / a.heads / windows_of(a);
    if (n == begin || head == 0) locate(a, image, n / a.heads % windows_of(a), w);
    const float* biases = a.table + head * a.offsets + a.origin;
    float* table = tables + head * a.offsets + a.origin;
    pack(a, w, a.qkv, a.type, image, head, 0, 3, a.scale, q);
    pack(a, w, a.qkv, a.type, image, head, 1, 3, 1, k);
    pack(a, w, a.qkv, a.type, image, head, 2, 3, 1, v);
    pack(a, w, b.grad, b.grad_type, image, head, 0, 1, 1, grad);
    transpose(k, w.tokens, dim, k_turned);
    transpose(v, w.tokens, dim, v_turned);
    for (int64_t first = 0; first < w.tokens; first += window_rows) {
      const int64_t rows = w.tokens - first < window_rows ? w.tokens - first : window_rows;
      const float *queries = q + first * width, *incoming = grad + first * width;
      multiply({queries, width, 1, k_turned, w.width, weights, w.width, rows, w.width, dim, false});
      multiply({incoming, width, 1, v_turned, w.width, grads, w.width, rows, w.width, dim, false});
      for (int64_t i = 0; i < rows; ++i) {
        float* pairs = grads + i * w.width;
        const float sum = weigh(w, biases, first + i, weights + i * w.width);
        differentiate(weights + i * w.width, pairs, sum, w.width);
        float* to = table - w.code[first + i];
        for (int64_t j = 0; j < w.tokens; ++j) to[w.code[j]] += pairs[j];
      }
      const bool add = first > 0;
      multiply({weights, 1, w.width, incoming, width, v_grad, width, w.tokens, width, rows, add});
      multiply({grads, 1, w.width, queries, width, k_grad, width, w.tokens, width, rows, add});
      multiply({grads, w.width, 1, k, width, q_grad, width, rows, width, w.tokens, false});
#pragma omp simd
      for (int64_t i = 0; i < rows * width; ++i) q_grad[i] *= a.scale;
      unpack(a, w, q_grad, first, first + rows, image, head, 0, 3, b.qkv_grad);
    }
    unpack(a, w, k_grad, 0, w.tokens, image, head, 1, 3, b.qkv_grad);
    unpack(a, w, v_grad, 0, w.tokens, image, head, 2, 3, b.qkv_grad);
  }
}

}  // namespace fastmim::FASTMIM_ISA
