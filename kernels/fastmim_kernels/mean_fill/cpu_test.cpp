// Normalised images with hidden pixels filled, against means in double.
#include "body_test.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

void test_mean_fill(MeanFillImages* body, const char* isa, Type image_type, Type type, bool fill) {
  const int64_t batch = 3, height = 6, width = 10, channels = 3, line = width * channels, pixels = height * width;
  const std::unique_ptr<bool[]> hidden(new bool[batch * 4]);
  for (int64_t i = 0; i < batch * 4; ++i) hidden[i] = i % 3 == 0;
  Array images(image_type, batch * pixels * channels), out(type, batch * pixels * channels);
  for (int64_t i = 0; i < batch * pixels * channels; ++i) images.set(i, static_cast<float>(i * 7 % 200));
  const std::vector<float> mean(line, 0.456f), std(line, 0.224f);
  const MeanFill work{images.bytes.get(), image_type, fill ? hidden.get() : nullptr, mean.data(), std.data(),
                      out.bytes.get(), type, height, width, channels, fill ? 2 : 1, fill ? 2 : 1};
  split(batch, 2, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> lines(height);
    std::vector<float> scratch(11 * line);
    body(work, begin, end, lines.data(), scratch.data());
  });
  const auto value = [&](double x) { return image_type == Type::u8 ? (x / 255 - 0.456) / 0.224 : x; };
  for (int64_t i = 0; i < batch * pixels * channels; ++i) {
    const int64_t image = i / (pixels * channels), y = i / line % height, x = i % line / channels;
    double expected = images.at(i), total = 0;
    for (int64_t j = 0; j < pixels; ++j) total += images.at((image * pixels + j) * channels + i % channels);
    if (fill && hidden[image * 4 + y / 3 * 2 + x / 5]) expected = total / pixels;
    const double tolerance = (type == Type::f32 ? 1e-5 : 1e-2) * (1 + std::fabs(value(expected)));
    check(std::fabs(out.at(i) - value(expected)) < tolerance, "mean fill", isa);
  }
}

}  // namespace

FASTMIM_TEST(mean_fill) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (Type image : {Type::u8, type}) {
      for (bool fill : {false, true}) test_mean_fill(FASTMIM_BODY(mean_fill_images), isa, image, type, fill);
    }
  }
}

}  // namespace fastmim
