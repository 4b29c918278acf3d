// unshuffle for CPU tensors: checks and threads. The arithmetic is in cpu_body.cpp.
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor unshuffle(Tensor latent, Tensor mask_token, Tensor pos_embed, Tensor ids, bool raster) {
  STD_TORCH_CHECK(latent.dim() == 3 && pos_embed.dim() == 3 && ids.dim() == 2, "unshuffle: wrong number of dimensions");
  latent = torch::stable::contiguous(latent);
  mask_token = torch::stable::contiguous(mask_token);
  pos_embed = torch::stable::contiguous(pos_embed);
  ids = torch::stable::contiguous(ids);
  const int64_t batch = ids.size(0), num_patches = ids.size(1), total = pos_embed.size(1), dim = latent.size(2);
  const int64_t num_prefix = total - num_patches;
  STD_TORCH_CHECK(latent.size(0) == batch && mask_token.numel() == dim && pos_embed.size(0) == 1 &&
                      pos_embed.size(2) == dim && num_prefix >= 0 && latent.size(1) >= num_prefix &&
                      latent.size(1) <= total,
                  "unshuffle: latent, mask_token, pos_embed and ids do not fit together");
  check_permutations("unshuffle", ids);

  std::vector<float> token(dim);
  load(type_of(mask_token), mask_token.const_data_ptr(), 0, token.data(), dim);
  Tensor hidden = torch::stable::new_empty(pos_embed, {num_patches, dim});
  Tensor out = torch::stable::new_empty(pos_embed, {batch, total, dim});
  const Unshuffle work{
      .latent = latent.const_data_ptr(),
      .latent_type = type_of(latent),
      .mask_token = token.data(),
      .pos_embed = pos_embed.const_data_ptr(),
      .pos_type = type_of(pos_embed),
      .ids = ids.const_data_ptr<int64_t>(),
      .hidden = hidden.mutable_data_ptr(),
      .out = out.mutable_data_ptr(),
      .num_prefix = num_prefix,
      .num_keep = latent.size(1) - num_prefix,
      .num_patches = num_patches,
      .dim = dim,
      .raster = raster,
  };
  STD_TORCH_CHECK(work.pos_type != Type::u8, "unshuffle: expected floating tensors");
  static UnshuffleHidden* const fill_hidden = FASTMIM_CHOOSE(unshuffle_hidden);
  static UnshuffleTokens* const fill_tokens = FASTMIM_CHOOSE(unshuffle_tokens);
  // A smaller task than about 16,000 values costs more to start than to run.
  const int64_t grain = 1 + 16384 / (dim + 1);
  torch::stable::parallel_for(0, num_patches, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    fill_hidden(work, begin, end, scratch.data());
  });
  torch::stable::parallel_for(0, batch * total, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    fill_tokens(work, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("unshuffle", TORCH_BOX(&fastmim::unshuffle)); }
