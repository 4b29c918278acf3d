#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Writes token + pos_embed[place]. scratch: D floats.
void add(const Unshuffle& a, const float* token, int64_t place, void* out, float* scratch) {
  const float* pos = floats(a.pos_type, a.pos_embed, place * a.dim, scratch, a.dim);
  float* sum = a.pos_type == Type::f32 ? static_cast<float*>(out) : scratch;
#pragma omp simd
  for (int64_t d = 0; d < a.dim; ++d) sum[d] = token[d] + pos[d];
  if (a.pos_type != Type::f32) store(a.pos_type, sum, out, 0, a.dim);
}

}  // namespace

void unshuffle_hidden(const Unshuffle& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t bytes = a.dim * size_of(a.pos_type);
  for (int64_t patch = begin; patch < end; ++patch) {
    add(a, a.mask_token, a.num_prefix + patch, static_cast<char*>(a.hidden) + patch * bytes, scratch);
  }
}

void unshuffle_tokens(const Unshuffle& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t total = a.num_prefix + a.num_patches, given = a.num_prefix + a.num_keep;
  const int64_t bytes = a.dim * size_of(a.pos_type);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t image = n / total, j = n % total;
    const int64_t patch = j < a.num_prefix ? 0 : a.ids[image * a.num_patches + j - a.num_prefix];
    const int64_t place = j < a.num_prefix ? j : a.num_prefix + patch;
    char* out = static_cast<char*>(a.out) + (image * total + (a.raster ? place : j)) * bytes;
    if (j < given) {
      add(a, floats(a.latent_type, a.latent, (image * given + j) * a.dim, scratch + a.dim, a.dim), place, out, scratch);
    } else {
      stream(out, static_cast<const char*>(a.hidden) + patch * bytes, bytes);
    }
  }
  streamed();
}

}  // namespace fastmim::FASTMIM_ISA
