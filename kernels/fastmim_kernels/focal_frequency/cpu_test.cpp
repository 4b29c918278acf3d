// Focal frequency losses and their gradients, against formulas and difference quotients.
#include "body_test.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

void test_focal_frequency(FocalFrequencyRows* body, const char* isa, int64_t width, bool frequency, bool log, float alpha,
                         float gamma) {
  const int64_t rows = 5, half = width / 2 + 1;
  std::vector<float> spectrum(rows * half * 2), peaks(rows);
  for (float& x : spectrum) x = static_cast<float>(uniform() * 8 - 4);
  spectrum[0] = spectrum[1] = 0;
  const std::vector<float> before = spectrum;
  std::vector<double> sums(rows);
  const FocalFrequency work{spectrum.data(), half, width % 2 == 0, frequency, log, alpha, gamma};
  split(rows, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * half);
    body(work, begin, end, scratch.data(), sums.data(), peaks.data());
  });
  for (int64_t n = 0; n < rows; ++n) {
    double sum = 0, peak = frequency ? 0 : 1;
    for (int64_t x = 0; x < half; ++x) {
      const int64_t i = 2 * (n * half + x);
      const double m = std::hypot(before[i], before[i + 1]), raised = std::pow(m, alpha);
      const double s = log ? std::log1p(raised) : raised;
      double value = s * m * m, factor = 2 * s;
      if (frequency) {
        peak = std::max(peak, s);
      } else {
        value = focal_of(m, alpha, gamma);
        factor = m > 0 ? (focal_of(m + 1e-5, alpha, gamma) - focal_of(m - 1e-5, alpha, gamma)) / (2e-5 * m) : 0;
      }
      sum += x == 0 || (width % 2 == 0 && x == half - 1) ? value : 2 * value;
      for (int64_t k = i; k < i + 2; ++k) {
        check(std::fabs(spectrum[k] - factor * before[k]) < 1e-4 * (1 + factor), "spectrum", isa);
      }
    }
    check(std::fabs(sums[n] - sum) < 1e-5 * (1 + sum), "spectrum: loss", isa);
    check(std::fabs(peaks[n] - peak) < 1e-5 * (1 + peak), "spectrum: peak", isa);
  }
}

}  // namespace

FASTMIM_TEST(focal_frequency) {
  FocalFrequencyRows* body = FASTMIM_BODY(focal_frequency_rows);
  for (int64_t width : {1, 2, 7, 32}) {
    for (float power : {1.0f, 0.5f}) {
      for (bool log : {false, true}) test_focal_frequency(body, isa, width, true, log, power, 0);
    }
    for (float gamma : {0.0f, 1.0f, 2.5f}) test_focal_frequency(body, isa, width, false, false, 0.2f, gamma);
  }
}

}  // namespace fastmim
