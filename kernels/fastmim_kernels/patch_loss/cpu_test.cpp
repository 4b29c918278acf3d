// Loss and gradient of patches, against their formulas.
#include "body_test.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

void test_patch_loss(PatchLossRows* body, const char* isa, Type pred_type, Type image_type, int64_t p, ElementLoss loss,
                     int flags) {
  const bool norm_pix = flags & 1, with_grad = flags & 2, channels_first = flags & 4, every = flags & 8;
  const int64_t channels = norm_pix || channels_first ? 3 : 1;
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
  // Predictions of every patch, in the memory layout of a convolution's map.
  const int64_t patches = rows_of * columns, row_stride = every ? 1 : values, value_stride = every ? patches : 1;
  const FocalL1 focal{0.2f, p == 3 ? 1.5f : 1.0f};
  const PatchLoss work{{pred.bytes.get(), pred_type, images.bytes.get(), image_type, {height, width, channels, p},
                        scale.data(), shift.data()},
                       rows.data(), with_grad ? grad.bytes.get() : nullptr, every, patches * values, row_stride,
                       value_stride, norm_pix, channels_first, loss, focal, 0.25f};
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
      const int64_t j = channels_first ? i % channels * (p * p) + i / channels : i;
      const int64_t place = every ? image * patches * values + j * patches + patch : k * values + j;
      const double d = pred.at(place) - t, m = std::fabs(d), sign = (d > 0) - (d < 0);
      double value = m, slope = sign;
      if (loss == ElementLoss::l2) {
        value = d * d;
        slope = 2 * d;
      } else if (loss == ElementLoss::focal_l1) {
        const double u = std::tanh(0.1 * m), gamma = focal.gamma;
        value = m * std::pow(u, gamma);
        slope = sign * (std::pow(u, gamma) + m * gamma * std::pow(u, gamma - 1) * 0.1 * (1 - u * u));
      }
      sum += value;
      if (with_grad && m > 1e-4) {
        check(std::fabs(grad.at(place) - 0.25 * slope) < grad_tolerance, "gradient", isa);
      }
    }
    check(std::fabs(sums[k] - sum) < 1e-4 * (1 + sum), "loss", isa);
  }
}

}  // namespace

FASTMIM_TEST(patch_loss) {
  PatchLossRows* body = FASTMIM_BODY(patch_loss_rows);
  for (Type pred : {Type::f32, Type::bf16, Type::f16}) {
    for (Type image : {Type::u8, Type::f32, Type::bf16, Type::f16}) {
      for (int64_t p : {1, 3, 7, 16}) {
        for (ElementLoss loss : {ElementLoss::l1, ElementLoss::l2, ElementLoss::focal_l1}) {
          for (int flags = 0; flags < 16; ++flags) test_patch_loss(body, isa, pred, image, p, loss, flags);
        }
      }
    }
  }
}

}  // namespace fastmim
