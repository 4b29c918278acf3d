// Low-pass-filtered images, against the sum over the frequencies that the disc keeps, by definition.
#include <complex>

#include "body_test.h"
#include "cpu_body.h"
#include "cpu_tables.h"

namespace fastmim {
namespace {

void test_low_pass(LowPassImages* body, const char* isa, int64_t height, int64_t width, double radius, bool official,
                   Type type) {
  const int64_t batch = 3, channels = 2, p = height % 2 || width % 2 ? 1 : 2, values = height * width * channels;
  Array images(type, batch * values);
  std::vector<float> out(batch * values);
  for (int64_t i = 0; i < batch * values; ++i) {
    images.set(i, static_cast<float>(type == Type::u8 ? uniform() * 256 : uniform() * 4 - 2));
  }
  std::vector<float> scale(width * channels, 1 / 64.0f), shift(width * channels, -2.0f), mean(width * channels, 0.5f);
  const int64_t patches = height / p * (width / p);
  const std::unique_ptr<bool[]> wanted(new bool[batch * patches]);
  for (int64_t i = 0; i < batch * patches; ++i) wanted[i] = i % 3 != 0 && i / patches != 1;
  const LowPassTables tables(height, width, radius, official);
  LowPass work{};
  work.images = {height, width, channels, p};
  work.source = images.bytes.get();
  work.source_type = type;
  work.scale = scale.data();
  work.shift = shift.data();
  work.mean = mean.data();
  work.wanted = wanted.get();
  work.out = out.data();
  tables.lend(work);
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(low_pass_scratch(work));
    body(work, begin, end, scratch.data());
  });

  const double turn = 6.283185307179586;
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      std::vector<std::complex<double>> sums(height * width);
      for (int64_t u = -(height / 2); u <= (height - 1) / 2; ++u) {
        for (int64_t v = -(width / 2); v <= (width - 1) / 2; ++v) {
          const double down = u + (official && height % 2 == 0 ? 0.5 : 0);
          const double across = v + (official && width % 2 == 0 ? 0.5 : 0);
          if (down * down + across * across > radius * radius) continue;
          std::complex<double> coefficient = 0;
          const auto wave = [&](int64_t y, int64_t x) {
            return std::polar(1.0, turn * (static_cast<double>(u * y) / height + static_cast<double>(v * x) / width));
          };
          for (int64_t i = 0; i < height * width; ++i) {
            const double x = images.at((image * height * width + i) * channels + c);
            coefficient += (type == Type::u8 ? x / 64 - 2 : x) * std::conj(wave(i / width, i % width));
          }
          for (int64_t i = 0; i < height * width; ++i) {
            sums[i] += coefficient * wave(i / width, i % width) / static_cast<double>(height * width);
          }
        }
      }
      for (int64_t i = 0; i < height * width; ++i) {
        const int64_t patch = i / width / p * (width / p) + i % width / p;
        const double expected = wanted[image * patches + patch] ? std::abs(sums[i] + 0.5) - 0.5 : 0;
        const double got = out[(image * height * width + i) * channels + c];
        check(std::fabs(got - expected) < 1e-5, "low pass", isa);
      }
    }
  }
}

}  // namespace

FASTMIM_TEST(low_pass) {
  LowPassImages* body = FASTMIM_BODY(low_pass_images);
  for (Type type : {Type::u8, Type::f32, Type::bf16, Type::f16}) {
    for (bool official : {true, false}) {
      test_low_pass(body, isa, 8, 20, 2.5, official, type);
      test_low_pass(body, isa, 6, 10, 4, official, type);
      test_low_pass(body, isa, 7, 9, 3, official, type);
      test_low_pass(body, isa, 14, 1, 100, official, type);
    }
  }
}

}  // namespace fastmim
