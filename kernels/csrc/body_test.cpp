// Runs the torch-free op bodies on small cases, in one thread and in several, on every instruction set of this machine.
// Made for the sanitizers (FASTMIM_SANITIZE): every array is allocated at exactly its size. The values are checked here
// only against a plain double computation; tests/kernels does that thoroughly.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "patch_gather/cpu_body.h"
#include "patch_loss/cpu_body.h"
#include "patch_scatter/cpu_body.h"
#include "philox/cpu_body.h"
#include "random_mask/cpu_body.h"
#include "scale_/cpu_body.h"
#include "unshuffle/cpu_body.h"
#include "unshuffle_backward/cpu_body.h"
#include "window_attention/cpu_body.h"
#include "window_attention_backward/cpu_body.h"

using namespace fastmim;

namespace {

int failures = 0;

void check(bool ok, const char* what, const char* isa) {
  if (!ok) {
    std::printf("FAILED: %s (%s)\n", what, isa);
    ++failures;
  }
}

double uniform() { return std::rand() / (RAND_MAX + 1.0); }

struct Array {
  Type type;
  std::unique_ptr<char[]> bytes;
  Array(Type t, int64_t n) : type(t), bytes(new char[n * size_of(t)]) {}
  double at(int64_t i) const {
    float x;
    load(type, bytes.get(), i, &x, 1);
    return x;
  }
  void set(int64_t i, float x) {
    if (type == Type::u8) {
      bytes[i] = static_cast<char>(static_cast<uint8_t>(x));
    } else {
      store(type, &x, bytes.get(), i, 1);
    }
  }
};

// Runs body(begin, end) on parts of [0, n) at the same time.
template <class F>
void split(int64_t n, int parts, F body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < parts; ++i) threads.emplace_back([=] { body(n * i / parts, n * (i + 1) / parts); });
  for (auto& thread : threads) thread.join();
}

void test_patch_loss(PatchLossRows* body, const char* isa, Type pred_type, Type image_type, int64_t p,
                     int64_t channels, bool norm_pix, bool l1, bool with_grad) {
  const int64_t batch = 2, rows_of = 2, columns = 3, height = rows_of * p, width = columns * p;
  const int64_t line = p * channels, values = p * line, n = batch * rows_of * columns;
  const bool bytes = image_type == Type::u8;
  Array pred(pred_type, n * values), grad(pred_type, n * values), images(image_type, n * values);
  for (int64_t i = 0; i < n * values; ++i) pred.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t i = 0; i < n * values; ++i) {
    images.set(i, static_cast<float>(bytes ? uniform() * 256 : uniform() * 4 - 2));
  }
  std::vector<int64_t> rows(n);
  for (int64_t i = 0; i < n; ++i) rows[i] = n - 1 - i;
  std::vector<float> scale(values, 1 / 64.0f), shift(values, -2.0f);
  const PatchLoss work{pred.bytes.get(), pred_type, images.bytes.get(), image_type, rows.data(), scale.data(),
                       shift.data(), with_grad ? grad.bytes.get() : nullptr, height, width, channels, p,
                       norm_pix, l1, 0.25f};
  std::vector<double> sums(n, -1.0), threaded(n, -1.0);
  split(n, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  split(n, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data(), threaded.data());
  });
  check(sums == threaded, "same bits from one thread and from three", isa);

  const double grad_tolerance = pred_type == Type::f32 ? 1e-5 : 2e-2;
  std::vector<double> target(values);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t image = rows[k] / (rows_of * columns), patch = rows[k] % (rows_of * columns);
    double mean = 0, variance = 0, sum = 0;
    for (int64_t i = 0; i < values; ++i) {
      const int64_t y = patch / columns * p + i / line, x = patch % columns * line + i % line;
      target[i] = images.at((image * height + y) * width * channels + x);
      if (bytes) target[i] = target[i] / 64 - 2;
      mean += target[i] / static_cast<double>(values);
    }
    for (double t : target) variance += (t - mean) * (t - mean) / static_cast<double>(values - 1);
    for (int64_t i = 0; i < values; ++i) {
      const double t = norm_pix ? (target[i] - mean) / std::sqrt(variance + 1e-6) : target[i];
      const double d = pred.at(k * values + i) - t;
      sum += l1 ? std::fabs(d) : d * d;
      const double slope = l1 ? 0.25 * ((d > 0) - (d < 0)) : 0.5 * d;
      if (with_grad && std::fabs(d) > 1e-4) {
        check(std::fabs(grad.at(k * values + i) - slope) < grad_tolerance, "gradient", isa);
      }
    }
    check(std::fabs(sums[k] - sum) < 1e-4 * (1 + sum), "loss", isa);
  }
}

void test_scale(Scale* body, const char* isa, Type type) {
  const int64_t n = 2777;
  Array x(type, n), before(type, n);
  for (int64_t i = 0; i < n; ++i) {
    x.set(i, static_cast<float>(uniform() * 4 - 2));
    before.set(i, static_cast<float>(x.at(i)));
  }
  split(n, 3, [&](int64_t begin, int64_t end) { body(type, x.bytes.get(), begin, end, 0.5f); });
  for (int64_t i = 0; i < n; ++i) check(x.at(i) == 0.5 * before.at(i), "scale", isa);
}

// The known answers of Random123 (kat_vectors, "philox4x32 10"): the counter is (block, id, stream), the key the seed.
void test_philox_answers(PhiloxBlocks* body, const char* isa) {
  const struct {
    uint64_t seed, block, id;
    uint32_t stream;
    std::vector<int64_t> words;
  } answers[] = {
      {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, 0xffffffff, ~0ull, 0xffffffff, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822, 0x243f6a88, 0x13198a2e85a308d3, 0x03707344, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& answer : answers) {
    const int64_t id = static_cast<int64_t>(answer.id), block = static_cast<int64_t>(answer.block);
    std::vector<int64_t> words(4);
    body({answer.seed, answer.stream, &id, int64_t{1} << 34}, block, block + 1, words.data());
    check(words == answer.words, "known answer of philox", isa);
  }
}

std::vector<int64_t> draw(PhiloxBlocks* body, const std::vector<int64_t>& ids, int64_t n, int parts) {
  const int64_t blocks = (n + 3) / 4;
  std::vector<int64_t> words(ids.size() * n);
  split(ids.size() * blocks, parts, [&](int64_t begin, int64_t end) {
    body({7, 3, ids.data(), n}, begin, end, words.data() + begin / blocks * n + begin % blocks * 4);
  });
  return words;
}

void test_random_mask(PhiloxBlocks* philox, RandomMaskRows* body, const char* isa, int64_t patches, int64_t keep,
                      bool raster) {
  const std::vector<int64_t> ids{0, -1, 5, int64_t{1} << 40, 9};
  const std::vector<int64_t> draws = draw(philox, ids, patches, 1);
  check(draws == draw(philox, ids, patches, 3), "same draws from one thread and from three", isa);
  std::vector<int64_t> expected(draws.size()), masks(draws.size());
  for (size_t n = 0; n < ids.size(); ++n) {
    const auto row = expected.begin() + n * patches;
    for (int64_t l = 0; l < patches; ++l) row[l] = l;
    std::stable_sort(row, row + patches, [&](int64_t i, int64_t j) {
      return draws[n * patches + i] < draws[n * patches + j];
    });
    if (raster) {
      std::sort(row, row + keep);
      std::sort(row + keep, row + patches);
    }
  }
  const RandomMask work{7, 3, ids.data(), patches, keep, raster, masks.data()};
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(random_mask_scratch(patches) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  check(masks == expected, "random mask", isa);
}

void test_draws(PhiloxBlocks* philox, RandomMaskRows* random_mask, const char* isa) {
  test_philox_answers(philox, isa);
  for (int64_t patches : {1, 2, 3, 4, 63, 64, 65, 196, 1009}) {
    for (int64_t keep : {int64_t{1}, (patches + 3) / 4, patches}) {
      for (bool raster : {false, true}) test_random_mask(philox, random_mask, isa, patches, keep, raster);
    }
  }
}

void test_patches(PatchGatherRows* gather, PatchScatterImages* scatter, const char* isa, Type image_type, Type type,
                  int64_t p, int64_t channels) {
  const int64_t batch = 2, patches = 6, num_ids = 5;
  const Images shape{2 * p, 3 * p, channels, p};
  const int64_t values = p * p * channels, pixels = batch * patches * values;
  const bool bytes = image_type == Type::u8;
  Array images(image_type, pixels), out(type, batch * num_ids * values), back(type, pixels);
  for (int64_t i = 0; i < pixels; ++i) images.set(i, static_cast<float>(bytes ? i % 256 : uniform() * 4 - 2));
  const std::vector<int64_t> ids{5, 0, 3, 1, 4, 2, 1, 0, 5, 4};
  std::vector<int64_t> rows(batch * patches, -1);
  for (int64_t n = 0; n < batch * num_ids; ++n) rows[n / num_ids * patches + ids[n]] = n;
  const std::vector<float> mean(values, 0.456f), std(values, 0.224f);
  const PatchGather work{shape, images.bytes.get(), image_type, ids.data(), num_ids, mean.data(), std.data(),
                         out.bytes.get(), type};
  split(batch * num_ids, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    gather(work, begin, end, scratch.data());
  });
  const PatchScatter reverse{shape, out.bytes.get(), type, rows.data(), back.bytes.get(), type};
  split(batch, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(p * channels);
    scatter(reverse, begin, end, scratch.data());
  });
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t y = 0; y < 2 * p; ++y) {
      for (int64_t x = 0; x < 3 * p; ++x) {
        const bool named = rows[image * patches + y / p * 3 + x / p] >= 0;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t i = ((image * 2 * p + y) * 3 * p + x) * channels + c;
          const float value = static_cast<float>(images.at(i));
          Array expected(type, 1);
          expected.set(0, bytes ? (value / 255.0f - 0.456f) / 0.224f : value);
          check(back.at(i) == (named ? expected.at(0) : 0), "patch gathered and scattered back", isa);
        }
      }
    }
  }
}

void test_unshuffle(UnshuffleHidden* hidden, UnshuffleTokens* tokens, UnshuffleBackwardImages* backward,
                    SumRows* sum_rows, const char* isa, Type type, Type pos_type, int64_t dim, bool raster) {
  const int64_t batch = 3, patches = 13, keep = 3, prefix = 1, total = prefix + patches, given = prefix + keep;
  Array latent(type, batch * given * dim), pos(pos_type, total * dim), table(pos_type, patches * dim);
  Array out(pos_type, batch * total * dim), grad(type, batch * given * dim);
  std::vector<float> token(dim, 0.5f);
  for (int64_t i = 0; i < batch * given * dim; ++i) latent.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t i = 0; i < total * dim; ++i) pos.set(i, static_cast<float>(uniform() * 4 - 2));
  std::vector<int64_t> ids(batch * patches);
  for (int64_t i = 0; i < batch * patches; ++i) ids[i] = (5 * i + i / patches) % patches;
  const Unshuffle work{latent.bytes.get(), type, token.data(), pos.bytes.get(), pos_type, ids.data(),
                       table.bytes.get(), out.bytes.get(), prefix, keep, patches, dim, raster};
  split(patches, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    hidden(work, begin, end, scratch.data());
  });
  split(batch * total, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    tokens(work, begin, end, scratch.data());
  });
  const UnshuffleBackward reverse{out.bytes.get(), pos_type, ids.data(), grad.bytes.get(), type,
                                  prefix, keep, patches, dim, raster};
  std::vector<float> sums(batch * dim), positions(dim);
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(patches - keep);
    std::vector<float> scratch(8 * dim);
    backward(reverse, begin, end, sums.data(), rows.data(), scratch.data());
  });
  std::vector<double> expected(batch * dim), first(dim);
  const double tolerance = type == Type::f32 && pos_type == Type::f32 ? 1e-6 : 4e-2;
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t j = 0; j < total; ++j) {
      const int64_t place = j < prefix ? j : prefix + ids[image * patches + j - prefix];
      const int64_t row = image * total + (raster ? place : j);
      for (int64_t d = 0; d < dim; ++d) {
        const double x = out.at(row * dim + d), was = j < given ? latent.at((image * given + j) * dim + d) : 0.5;
        check(std::fabs(x - was - pos.at(place * dim + d)) < tolerance, "unshuffle", isa);
        if (j < given) {
          check(std::fabs(grad.at((image * given + j) * dim + d) - x) < tolerance, "unshuffle: latent", isa);
        } else {
          expected[image * dim + d] += x;
        }
        if (j == 0) first[d] += x;
      }
    }
  }
  const std::vector<int64_t> rows{0, total, 2 * total};
  std::vector<float> scratch(8 * dim);
  sum_rows(pos_type, out.bytes.get(), dim, rows.data(), batch, positions.data(), scratch.data());
  for (int64_t d = 0; d < dim; ++d) check(std::fabs(positions[d] - first[d]) < 1e-5, "unshuffle: positions", isa);
  for (int64_t i = 0; i < batch * dim; ++i) {
    check(std::fabs(sums[i] - expected[i]) < 1e-4, "unshuffle: mask token", isa);
  }
}

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

void test_attention(WindowAttentionItems* forward, WindowAttentionGradients* backward, const char* isa) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t dim : {1, 8, 29, 32}) {
      for (int64_t shift : {0, 1}) test_window_attention(forward, backward, isa, type, dim, shift);
    }
  }
}

struct DataPath {
  PatchGatherRows* gather;
  PatchScatterImages* scatter;
  UnshuffleHidden* hidden;
  UnshuffleTokens* tokens;
  UnshuffleBackwardImages* backward;
  SumRows* sum_rows;
};

void test_data_path(const DataPath& ops, const char* isa) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t p : {1, 3, 7, 16}) {
      for (Type image : {Type::u8, type}) test_patches(ops.gather, ops.scatter, isa, image, type, p, p == 1 ? 1 : 3);
    }
    for (int64_t dim : {1, 24, 37}) {
      for (int flags = 0; flags < 4; ++flags) {
        test_unshuffle(ops.hidden, ops.tokens, ops.backward, ops.sum_rows, isa, type, flags & 1 ? type : Type::f32, dim,
                       flags & 2);
      }
    }
  }
}

void test(PatchLossRows* patch_loss, Scale* scale, const char* isa) {
  for (Type pred : {Type::f32, Type::bf16, Type::f16}) {
    test_scale(scale, isa, pred);
    for (Type image : {Type::u8, Type::f32, Type::bf16, Type::f16}) {
      for (int64_t p : {1, 3, 7, 16}) {
        for (int flags = 0; flags < 8; ++flags) {
          const bool norm_pix = flags & 1;
          test_patch_loss(patch_loss, isa, pred, image, p, norm_pix ? 3 : 1, norm_pix, flags & 2, flags & 4);
        }
      }
    }
  }
}

}  // namespace

int main() {
  test(plain::patch_loss_rows, plain::scale, "plain");
  test_draws(plain::philox_blocks, plain::random_mask_rows, "plain");
  test_data_path({plain::patch_gather_rows, plain::patch_scatter_images, plain::unshuffle_hidden,
                  plain::unshuffle_tokens, plain::unshuffle_backward_images, plain::sum_rows},
                 "plain");
  test_attention(plain::window_attention_items, plain::window_attention_gradients, "plain");
  if (FASTMIM_CHOOSE(scale) != plain::scale) {
    test(FASTMIM_CHOOSE(patch_loss_rows), FASTMIM_CHOOSE(scale), "best");
    test_draws(FASTMIM_CHOOSE(philox_blocks), FASTMIM_CHOOSE(random_mask_rows), "best");
    test_data_path({FASTMIM_CHOOSE(patch_gather_rows), FASTMIM_CHOOSE(patch_scatter_images),
                    FASTMIM_CHOOSE(unshuffle_hidden), FASTMIM_CHOOSE(unshuffle_tokens),
                    FASTMIM_CHOOSE(unshuffle_backward_images), FASTMIM_CHOOSE(sum_rows)},
                   "best");
    test_attention(FASTMIM_CHOOSE(window_attention_items), FASTMIM_CHOOSE(window_attention_gradients), "best");
  }
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
