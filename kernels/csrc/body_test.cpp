// Runs the torch-free op bodies on small cases, in one thread and in several, on every instruction set of this machine.
// Made for the sanitizers (FASTMIM_SANITIZE): every array is allocated at exactly its size. The values are checked here
// only against a plain double computation; tests/kernels does that thoroughly.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "patch_loss/cpu_body.h"
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
  if (FASTMIM_CHOOSE(scale) != plain::scale) test(FASTMIM_CHOOSE(patch_loss_rows), FASTMIM_CHOOSE(scale), "best");
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
