// focal_frequency for CPU tensors: checks, threads and the final sums. The arithmetic is in cpu_body.cpp.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor> focal_frequency(Tensor spectrum, int64_t width, double alpha, std::optional<double> gamma,
                                           bool log) {
  STD_TORCH_CHECK(spectrum.is_contiguous() && spectrum.dim() == 4 && type_of(spectrum) == Type::f32 && width > 0 &&
                      spectrum.size(1) > 0 && spectrum.size(2) == width / 2 + 1 && spectrum.size(3) == 2,
                  "focal_frequency: expected contiguous float32 half spectra");
  const int64_t planes = spectrum.size(0), height = spectrum.size(1), half = spectrum.size(2);
  const FocalFrequency work{
      .spectrum = spectrum.mutable_data_ptr<float>(),
      .half = half,
      .even = width % 2 == 0,
      .frequency = !gamma,
      .log = log,
      .alpha = static_cast<float>(alpha),
      .gamma = static_cast<float>(gamma.value_or(0)),
  };
  std::vector<double> sums(planes * height);
  std::vector<float> peaks(planes * height);
  static FocalFrequencyRows* const body = FASTMIM_CHOOSE(focal_frequency_rows);
  // A smaller task than about 16,000 values costs more to start than to run.
  torch::stable::parallel_for(0, planes * height, 1 + 8192 / half, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * half);
    body(work, begin, end, scratch.data(), sums.data(), peaks.data());
  });
  Tensor total = torch::stable::new_empty(spectrum, {planes}), peak = torch::stable::new_empty(spectrum, {planes});
  for (int64_t n = 0; n < planes; ++n) {
    double sum = 0;
    for (int64_t y = 0; y < height; ++y) sum += sums[n * height + y];
    total.mutable_data_ptr<float>()[n] = static_cast<float>(sum);
    peak.mutable_data_ptr<float>()[n] = *std::max_element(&peaks[n * height], &peaks[n * height] + height);
  }
  return {total, peak};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("focal_frequency", TORCH_BOX(&fastmim::focal_frequency));
}
