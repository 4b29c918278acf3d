// composite_residual for CPU tensors: checks, threads and the final sum. The arithmetic is in cpu_body.cpp.
#include <optional>
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "residual_tensors.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor> composite_residual(Tensor pred, Tensor images, Tensor ids, int64_t num_keep,
                                              int64_t patch_size, Tensor mean, Tensor std, std::optional<Tensor> fill,
                                              int64_t loss, double alpha, double gamma, double visible_value,
                                              double visible_weight, int64_t average) {
  const ResidualTensors in("composite_residual", pred, images, ids, num_keep, patch_size, mean, std);
  const int64_t batch = in.batch, num_patches = in.num_patches, values = in.values;
  STD_TORCH_CHECK(average > 0 && batch % average == 0, "composite_residual: average does not divide the batch");
  if (fill) fill = torch::stable::contiguous(*fill);
  STD_TORCH_CHECK(!fill || fill->numel() == batch * in.images.size(3), "composite_residual: fill does not fit");

  const int64_t* index = in.ids.const_data_ptr<int64_t>();
  std::vector<int64_t> inverse(batch * num_patches);
  for (int64_t i = 0; i < batch * num_patches; ++i) inverse[i / num_patches * num_patches + index[i]] = i % num_patches;

  constexpr auto f32 = torch::headeronly::ScalarType::Float;
  Tensor residual = torch::stable::new_empty(
      pred, {batch / average, in.images.size(1), in.images.size(2), in.images.size(3)}, f32);
  Tensor value = torch::stable::new_empty(pred, {}, f32);
  const CompositeResidual work{
      .in = in.residuals(),
      .inverse = inverse.data(),
      .fill = fill ? fill->const_data_ptr<float>() : nullptr,
      .residual = residual.mutable_data_ptr<float>(),
      .num_keep = num_keep,
      .num_patches = num_patches,
      .average = average,
      .loss = static_cast<ElementLoss>(loss),
      .focal = {static_cast<float>(alpha), static_cast<float>(gamma)},
      .visible_value = static_cast<float>(visible_value),
      .fill_weight = static_cast<float>(1 - visible_weight),
  };
  const int64_t units = batch / average * num_patches;
  std::vector<double> sums(units);
  static CompositeResidualPatches* const body = FASTMIM_CHOOSE(composite_residual_patches);
  // A smaller task than about 16,000 values costs more to start than to run.
  torch::stable::parallel_for(0, units, 1 + 16384 / (values * average + 1), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(3 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  double total = 0;
  for (double sum : sums) total += sum;
  const int64_t count = batch * (num_patches - num_keep) * values;
  *value.mutable_data_ptr<float>() = count ? static_cast<float>(total / static_cast<double>(count)) : 0.0f;
  return {value, residual};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("composite_residual", TORCH_BOX(&fastmim::composite_residual));
}
