// unshuffle_backward for CPU tensors: checks, threads and the last sum. The arithmetic is in cpu_body.cpp.
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

// Returns the gradient of every token, summed over the batch.
Tensor sum_positions(const UnshuffleBackward& a, const Tensor& grad) {
  const int64_t batch = grad.size(0), total = grad.size(1);
  std::vector<int64_t> rows(total * batch);  // for each token, its rows of grad
  for (int64_t j = 0; j < total; ++j) {
    for (int64_t image = 0; image < batch; ++image) {
      const int64_t patch = j < a.num_prefix ? 0 : a.ids[image * a.num_patches + j - a.num_prefix];
      const int64_t token = a.raster || j < a.num_prefix ? j : a.num_prefix + patch;
      rows[token * batch + image] = image * total + j;
    }
  }
  Tensor sums = torch::stable::new_empty(grad, {1, total, a.dim}, torch::headeronly::ScalarType::Float);
  float* out = sums.mutable_data_ptr<float>();
  static SumRows* const body = FASTMIM_CHOOSE(sum_rows);
  torch::stable::parallel_for(0, total, 1 + 16384 / (batch * a.dim + 1), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(8 * a.dim);
    for (int64_t j = begin; j < end; ++j) {
      body(a.grad_type, a.grad, a.dim, rows.data() + j * batch, batch, out + j * a.dim, scratch.data());
    }
  });
  return sums;
}

std::tuple<Tensor, Tensor, Tensor> unshuffle_backward(Tensor grad, Tensor ids, int64_t num_keep, bool raster,
                                                      torch::headeronly::ScalarType dtype, bool with_pos) {
  STD_TORCH_CHECK(grad.dim() == 3 && ids.dim() == 2, "unshuffle_backward: wrong number of dimensions");
  grad = torch::stable::contiguous(grad);
  ids = torch::stable::contiguous(ids);
  const int64_t batch = grad.size(0), dim = grad.size(2), num_patches = ids.size(1);
  const int64_t num_prefix = grad.size(1) - num_patches;
  STD_TORCH_CHECK(ids.size(0) == batch && num_prefix >= 0 && num_keep >= 0 && num_keep <= num_patches,
                  "unshuffle_backward: grad, ids and num_keep do not fit together");
  check_permutations("unshuffle_backward", ids);

  constexpr auto f32 = torch::headeronly::ScalarType::Float;
  Tensor latent = torch::stable::new_empty(grad, {batch, num_prefix + num_keep, dim}, dtype);
  Tensor token = torch::stable::new_empty(grad, {1, 1, dim}, f32);
  const UnshuffleBackward work{
      .grad = grad.const_data_ptr(),
      .grad_type = type_of(grad),
      .ids = ids.const_data_ptr<int64_t>(),
      .latent = latent.mutable_data_ptr(),
      .latent_type = type_of(latent),
      .num_prefix = num_prefix,
      .num_keep = num_keep,
      .num_patches = num_patches,
      .dim = dim,
      .raster = raster,
  };
  STD_TORCH_CHECK(work.grad_type != Type::u8 && work.latent_type != Type::u8,
                  "unshuffle_backward: expected floating tensors");
  std::vector<float> sums(batch * dim);
  static UnshuffleBackwardImages* const body = FASTMIM_CHOOSE(unshuffle_backward_images);
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(num_patches);
    std::vector<float> scratch(8 * dim);
    body(work, begin, end, sums.data(), rows.data(), scratch.data());
  });
  float* out = token.mutable_data_ptr<float>();
  for (int64_t d = 0; d < dim; ++d) {
    double total = 0;
    for (int64_t image = 0; image < batch; ++image) total += sums[image * dim + d];
    out[d] = static_cast<float>(total);
  }
  return {latent, token, with_pos ? sum_positions(work, grad) : torch::stable::new_empty(grad, {0}, f32)};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) {
  library.impl("unshuffle_backward", TORCH_BOX(&fastmim::unshuffle_backward));
}
