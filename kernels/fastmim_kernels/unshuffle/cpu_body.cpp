#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void unshuffle_tokens(const Unshuffle& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t total = a.num_prefix + a.num_patches, given = a.num_prefix + a.num_keep, dim = a.dim;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t image = n / total, j = n % total;
    const int64_t place = j < a.num_prefix ? j : a.num_prefix + a.ids[image * a.num_patches + j - a.num_prefix];
    const int64_t row = image * total + (a.raster ? place : j);
    const float* pos = floats(a.pos_type, a.pos_embed, place * dim, scratch, dim);
    const float* token =
        j < given ? floats(a.latent_type, a.latent, (image * given + j) * dim, scratch + dim, dim) : a.mask_token;
    float* out = a.out_type == Type::f32 ? static_cast<float*>(a.out) + row * dim : scratch;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) out[d] = token[d] + pos[d];
    if (a.out_type != Type::f32) store(a.out_type, scratch, a.out, row * dim, dim);
  }
}

}  // namespace fastmim::FASTMIM_ISA
