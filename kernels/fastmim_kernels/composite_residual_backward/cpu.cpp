// composite_residual_backward for CPU tensors: checks and threads. The arithmetic is in cpu_body.cpp.
#include <vector>

#include "cpu_body.h"
#include "residual_tensors.h"

namespace fastmim {
namespace {

Tensor composite_residual_backward(Tensor grad_loss, Tensor grad_residual, Tensor pred, Tensor images, Tensor ids,
                                   Tensor mean, Tensor std, int64_t num_keep, int64_t patch_size, int64_t loss,
                                   double alpha, double gamma, double visible_weight, int64_t average) {
  const ResidualTensors in("composite_residual_backward", pred, images, ids, num_keep, patch_size, mean, std);
  grad_residual = torch::stable::contiguous(grad_residual);
  STD_TORCH_CHECK(average > 0 && in.batch % average == 0 && grad_loss.numel() == 1 &&
                      grad_residual.numel() * average == in.images.numel(),
                  "composite_residual_backward: the gradients do not fit");
  Tensor grad = torch::stable::empty_like(in.pred);
  const int64_t count = in.batch * (in.num_patches - num_keep) * in.values;
  const CompositeResidualBackward work{
      .in = in.residuals(),
      .ids = in.ids.const_data_ptr<int64_t>(),
      .grad_residual = grad_residual.const_data_ptr<float>(),
      .grad = grad.mutable_data_ptr(),
      .num_keep = num_keep,
      .num_patches = in.num_patches,
      .average = average,
      .loss = static_cast<ElementLoss>(loss),
      .focal = {static_cast<float>(alpha), static_cast<float>(gamma)},
      .visible_weight = static_cast<float>(visible_weight),
      .step = *grad_loss.const_data_ptr<float>() / static_cast<float>(count ? count : 1),
  };
  static CompositeResidualBackwardRows* const body = FASTMIM_CHOOSE(composite_residual_backward_rows);
  // A smaller task than about 16,000 values costs more to start than to run.
  const int64_t grain = 1 + 16384 / (in.values + 1);
  torch::stable::parallel_for(0, in.batch * in.num_patches, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(3 * in.values);
    body(work, begin, end, scratch.data());
  });
  return grad;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("composite_residual_backward", TORCH_BOX(&fastmim::composite_residual_backward));
}
