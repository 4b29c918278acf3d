// Residual images, loss and the gradients of both, against their formulas.
#include "body_test.h"
#include "cpu_body.h"
#include "../composite_residual_backward/cpu_body.h"

namespace fastmim {
namespace {

double element_loss(ElementLoss loss, FocalL1 a, double d) {
  const double m = std::fabs(d);
  return loss == ElementLoss::l1 ? m : loss == ElementLoss::l2 ? m * m : focal_of(m, a.alpha, a.gamma);
}

void test_composite_residual(CompositeResidualPatches* body, CompositeResidualBackwardRows* backward, const char* isa,
                             Type pred_type, Type image_type, int64_t p, ElementLoss loss, float gamma,
                             bool with_fill) {
  const int64_t batch = 4, average = 2, patches = 6, keep = 2, channels = p == 1 ? 1 : 3, values = p * p * channels;
  const Images shape{2 * p, 3 * p, channels, p};
  const int64_t size = patches * values;
  const FocalL1 numbers{0.5f, gamma};
  Array pred(pred_type, batch * size), grad(pred_type, batch * size), images(image_type, batch * size);
  for (int64_t i = 0; i < batch * size; ++i) {
    pred.set(i, static_cast<float>(uniform() * 4 - 2));
    images.set(i, static_cast<float>(image_type == Type::u8 ? uniform() * 256 : uniform() * 4 - 2));
  }
  std::vector<int64_t> ids(batch * patches), inverse(batch * patches);
  for (int64_t i = 0; i < batch * patches; ++i) {
    ids[i] = (5 * i + i / patches) % patches;
    inverse[i / patches * patches + ids[i]] = i % patches;
  }
  const std::vector<float> scale(values, 1 / 64.0f), shift(values, -2.0f), fill(batch * channels, 0.25f);
  const Residuals in{pred.bytes.get(), pred_type, images.bytes.get(), image_type, shape, scale.data(), shift.data()};
  std::vector<float> residual(batch / average * size), expected(batch / average * size);
  std::vector<double> sums(batch / average * patches);
  const CompositeResidual work{in, inverse.data(), with_fill ? fill.data() : nullptr, residual.data(), keep, patches,
                               average, loss, numbers, 0.5f, 0.75f};
  split(batch / average * patches, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(3 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  const CompositeResidualBackward reverse{in, ids.data(), residual.data(), grad.bytes.get(), keep, patches, average,
                                          loss, numbers, 0.25f, 0.5f};
  split(batch * patches, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(3 * values);
    backward(reverse, begin, end, scratch.data());
  });
  double sum = 0, expected_sum = 0;
  for (double part : sums) sum += part;
  for (int64_t n = 0; n < batch * patches; ++n) {
    const int64_t image = n / patches, start = start_of(shape, image, ids[n]);
    const bool hidden = n % patches >= keep;
    for (int64_t i = 0; i < values; ++i) {
      const int64_t at = start + i / (p * channels) * 3 * p * channels + i % (p * channels);
      const int64_t to = at - (image - image / average) * size;
      double t = images.at(at);
      if (image_type == Type::u8) t = t / 64 - 2;
      const double d = pred.at(n * values + i) - t;
      const double composed = hidden ? d : 0.5 * d + (with_fill ? 0.75 * (0.25 - t) : 0);
      expected[to] += static_cast<float>(composed / average);
      double slope = 0;
      if (hidden) {
        expected_sum += element_loss(loss, numbers, d);
        slope = (element_loss(loss, numbers, d + 1e-4) - element_loss(loss, numbers, d - 1e-4)) / 2e-4;
      }
      const double gradient = 0.5 * slope + residual[to] * (hidden ? 1.0 : 0.25) / average;
      const double tolerance = pred_type == Type::f32 ? 1e-4 : 4e-2;
      if (std::fabs(d) > 1e-3) {
        check(std::fabs(grad.at(n * values + i) - gradient) < tolerance, "composite residual: gradient", isa);
      }
    }
  }
  check(std::fabs(sum - expected_sum) < 1e-4 * (1 + expected_sum), "composite residual: loss", isa);
  for (int64_t i = 0; i < batch / average * size; ++i) {
    check(std::fabs(residual[i] - expected[i]) < 1e-5, "composite residual", isa);
  }
}

}  // namespace

FASTMIM_TEST(composite_residual) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (Type image : {Type::u8, Type::f32, Type::f16}) {
      for (int64_t p : {1, 3, 16}) {
        for (bool fill : {false, true}) {
          const auto test = [&](ElementLoss loss, float gamma) {
            test_composite_residual(FASTMIM_BODY(composite_residual_patches),
                                    FASTMIM_BODY(composite_residual_backward_rows), isa, type, image, p, loss, gamma,
                                    fill);
          };
          test(ElementLoss::l1, 1);
          test(ElementLoss::l2, 1);
          test(ElementLoss::focal_l1, 1);
          test(ElementLoss::focal_l1, 2.5f);
        }
      }
    }
  }
}

}  // namespace fastmim
