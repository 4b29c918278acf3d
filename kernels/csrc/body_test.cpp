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

#include "patch_loss/cpu_body.h"
#include "philox/cpu_body.h"
#include "random_mask/cpu_body.h"
#include "scale_/cpu_body.h"

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
  if (FASTMIM_CHOOSE(scale) != plain::scale) test(FASTMIM_CHOOSE(patch_loss_rows), FASTMIM_CHOOSE(scale), "best");
  if (FASTMIM_CHOOSE(philox_blocks) != plain::philox_blocks) {
    test_draws(FASTMIM_CHOOSE(philox_blocks), FASTMIM_CHOOSE(random_mask_rows), "best");
  }
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
