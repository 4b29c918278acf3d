// mask_token for CPU tensors: checks and threads. The arithmetic is in cpu_body.cpp.
#include <optional>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor mask_token(Tensor x, Tensor hidden, Tensor token, std::optional<Tensor> gamma, bool add) {
  STD_TORCH_CHECK(x.dim() == 4, "mask_token: wrong number of dimensions");
  x = torch::stable::contiguous(x);
  hidden = torch::stable::contiguous(hidden);
  check_cells("mask_token", hidden, x);
  const int64_t batch = x.size(0), height = x.size(1), dim = x.size(3);
  STD_TORCH_CHECK(token.numel() == dim && (!gamma || (add && gamma->numel() == dim)),
                  "mask_token: token and gamma do not fit");
  const std::vector<float> value = floats_of(token), scale = gamma ? floats_of(*gamma) : std::vector<float>();
  const Type type = type_of(x);
  STD_TORCH_CHECK(type != Type::u8, "mask_token: expected floating tensors");
  std::vector<char> replacement(dim * size_of(type));
  store(type, value.data(), replacement.data(), 0, dim);
  Tensor out = torch::stable::new_empty(x, {batch, height, x.size(2), dim});
  const MaskToken work{
      .map = {hidden.const_data_ptr<bool>(), height, x.size(2), dim, hidden.size(1), hidden.size(2)},
      .x = x.const_data_ptr(),
      .type = type,
      .replacement = replacement.data(),
      .token = value.data(),
      .gamma = gamma ? scale.data() : nullptr,
      .add = add,
      .out = out.mutable_data_ptr(),
  };
  static MaskTokenLines* const body = FASTMIM_CHOOSE(mask_token_lines);
  // A smaller task than about 16,000 values costs more to start than to run.
  torch::stable::parallel_for(0, batch * height, 1 + 16384 / (x.size(2) * dim + 1), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    body(work, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("mask_token", TORCH_BOX(&fastmim::mask_token)); }
