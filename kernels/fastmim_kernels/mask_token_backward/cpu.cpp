// mask_token_backward for CPU tensors: checks, threads and the last sum. The arithmetic is in cpu_body.cpp.
#include <optional>
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor, Tensor> mask_token_backward(Tensor grad, std::optional<Tensor> x, Tensor hidden,
                                                       std::optional<Tensor> gamma, bool add) {
  STD_TORCH_CHECK(grad.dim() == 4 && x.has_value() == gamma.has_value(), "mask_token_backward: x and gamma do not fit");
  grad = torch::stable::contiguous(grad);
  hidden = torch::stable::contiguous(hidden);
  check_cells("mask_token_backward", hidden, grad);
  const int64_t batch = grad.size(0), height = grad.size(1), width = grad.size(2), dim = grad.size(3);
  const Type type = type_of(grad);
  STD_TORCH_CHECK(type != Type::u8, "mask_token_backward: expected floating tensors");
  if (x) {
    x = torch::stable::contiguous(*x);
    STD_TORCH_CHECK(x->numel() == grad.numel() && gamma->numel() == dim && add && type_of(*x) != Type::u8,
                    "mask_token_backward: x and gamma do not fit");
  }
  const std::vector<float> scale = gamma ? floats_of(*gamma) : std::vector<float>();

  constexpr auto f32 = torch::headeronly::ScalarType::Float;
  const bool writes = gamma || !add;
  Tensor out = writes ? torch::stable::new_empty(grad, {batch, height, width, dim})
                      : torch::stable::new_empty(grad, {0});
  Tensor token = torch::stable::new_empty(grad, {dim}, f32);
  Tensor gamma_grad = torch::stable::new_empty(grad, {gamma ? dim : 0}, f32);
  const MaskTokenBackward work{
      .map = {hidden.const_data_ptr<bool>(), height, width, dim, hidden.size(1), hidden.size(2)},
      .grad = grad.const_data_ptr(),
      .type = type,
      .x = x ? x->const_data_ptr() : nullptr,
      .x_type = x ? type_of(*x) : type,
      .gamma = gamma ? scale.data() : nullptr,
      .out = writes ? out.mutable_data_ptr() : nullptr,
  };
  std::vector<float> sums(2 * batch * dim);
  static MaskTokenBackwardImages* const body = FASTMIM_CHOOSE(mask_token_backward_images);
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(width);
    std::vector<float> scratch(10 * dim);
    body(work, begin, end, sums.data(), rows.data(), scratch.data());
  });
  const auto total = [&](int64_t first, Tensor& to) {
    for (int64_t d = 0; d < to.numel(); ++d) {
      double value = 0;
      for (int64_t image = 0; image < batch; ++image) value += sums[2 * image * dim + first + d];
      to.mutable_data_ptr<float>()[d] = static_cast<float>(value);
    }
  };
  total(0, token);
  total(dim, gamma_grad);
  return {out, token, gamma_grad};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("mask_token_backward", TORCH_BOX(&fastmim::mask_token_backward));
}
