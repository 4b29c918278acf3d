// Window attention and its gradients, against a softmax over all pairs in double.
#include "body_test.h"
#include "cpu_body.h"
#include "../window_attention_backward/cpu_body.h"

namespace fastmim {
namespace {

void test_window_attention(WindowAttentionItems* forward, WindowAttentionGradients* backward, const char* isa,
                           Type type, int64_t dim, int64_t shift) {
  const int64_t batch = 2, height = 4, width = 12, tokens = height * width, heads = 2, offsets = 7 * 23, origin = 80;
  const int64_t rows = 2, columns = 6, items = batch * 4 * heads;
  Array qkv(type, batch * tokens * 3 * heads * dim), out(type, batch * tokens * heads * dim);
  Array grad(type, batch * tokens * heads * dim), qkv_grad(type, batch * tokens * 3 * heads * dim);
  for (int64_t i = 0; i < batch * tokens * 3 * heads * dim; ++i) qkv.set(i, static_cast<float>(uniform() * 2 - 1));
  for (int64_t i = 0; i < batch * tokens * heads * dim; ++i) grad.set(i, static_cast<float>(uniform() * 2 - 1));
  std::vector<int32_t> codes(tokens);
  for (int64_t i = 0; i < tokens; ++i) codes[i] = static_cast<int32_t>(i / width * 23 + i % width);
  std::vector<float> table(heads * offsets), table_grads(2 * heads * offsets);
  for (float& x : table) x = static_cast<float>(uniform() * 2 - 1);
  const WindowAttention work{qkv.bytes.get(), type, codes.data(), 0, table.data(), offsets, out.bytes.get(),
                             {height, width}, {rows, columns}, {shift, shift}, heads, dim, origin, 0.5f};
  split(items, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(window_attention_scratch(work));
    forward(work, begin, end, scratch.data());
  });
  const WindowAttentionBackward reverse{work, grad.bytes.get(), type, qkv_grad.bytes.get()};
  split(2, 2, [&](int64_t begin, int64_t) {
    std::vector<float> scratch(window_attention_scratch(work));
    backward(reverse, begin * items / 2, (begin + 1) * items / 2, table_grads.data() + begin * heads * offsets,
             scratch.data());
  });

  const double tolerance = type == Type::f32 ? 1e-5 : 6e-2;
  std::vector<double> expected(batch * tokens * 3 * heads * dim), pairs(heads * offsets), weights(tokens);
  for (int64_t n = 0; n < batch * tokens * heads; ++n) {
    const int64_t head = n % heads, i = n / heads % tokens, image = n / heads / tokens;
    const auto at = [&](int64_t token, int64_t part) {
      return (((image * tokens + token) * 3 + part) * heads + head) * dim;
    };
    const auto dot = [&](const Array& x, int64_t a, const Array& y, int64_t b) {
      double sum = 0;
      for (int64_t d = 0; d < dim; ++d) sum += x.at(a + d) * y.at(b + d);
      return sum;
    };
    const auto rolled = [&](int64_t token, bool row) {
      return row ? (token / width + height - shift) % height : (token % width + width - shift) % width;
    };
    double total = 0, inner = 0;
    for (int64_t j = 0; j < tokens; ++j) {
      weights[j] = 0;
      if (rolled(i, true) / rows != rolled(j, true) / rows) continue;
      if (rolled(i, false) / columns != rolled(j, false) / columns) continue;
      const bool apart = (rolled(i, true) >= height - shift) != (rolled(j, true) >= height - shift) ||
                         (rolled(i, false) >= width - shift) != (rolled(j, false) >= width - shift);
      const double bias = table[head * offsets + origin + codes[j] - codes[i]];
      weights[j] = std::exp(0.5 * dot(qkv, at(i, 0), qkv, at(j, 1)) + bias - (apart ? 100 : 0));
      total += weights[j];
    }
    for (double& weight : weights) weight /= total;
    for (int64_t d = 0; d < dim; ++d) {
      double sum = 0;
      for (int64_t j = 0; j < tokens; ++j) sum += weights[j] * qkv.at(at(j, 2) + d);
      check(std::fabs(out.at(n * dim + d) - sum) < tolerance, "window attention", isa);
    }
    for (int64_t j = 0; j < tokens; ++j) inner += weights[j] * dot(grad, n * dim, qkv, at(j, 2));
    for (int64_t j = 0; j < tokens; ++j) {
      if (weights[j] == 0) continue;
      const double score = weights[j] * (dot(grad, n * dim, qkv, at(j, 2)) - inner);
      pairs[head * offsets + origin + codes[j] - codes[i]] += score;
      for (int64_t d = 0; d < dim; ++d) {
        expected[at(i, 0) + d] += 0.5 * score * qkv.at(at(j, 1) + d);
        expected[at(j, 1) + d] += 0.5 * score * qkv.at(at(i, 0) + d);
        expected[at(j, 2) + d] += weights[j] * grad.at(n * dim + d);
      }
    }
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    check(std::fabs(qkv_grad.at(static_cast<int64_t>(i)) - expected[i]) < tolerance, "window attention: qkv", isa);
  }
  for (int64_t i = 0; i < heads * offsets; ++i) {
    const double sum = table_grads[i] + table_grads[heads * offsets + i];
    check(std::fabs(sum - pairs[i]) < 1e-4, "window attention: table", isa);
  }
}

}  // namespace

FASTMIM_TEST(window_attention) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t dim : {1, 8, 29, 32}) {
      for (int64_t shift : {0, 1}) {
        test_window_attention(FASTMIM_BODY(window_attention_items), FASTMIM_BODY(window_attention_gradients), isa,
                              type, dim, shift);
      }
    }
  }
}

}  // namespace fastmim
