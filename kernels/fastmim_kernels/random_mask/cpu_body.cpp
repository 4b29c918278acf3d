#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void random_mask_rows(const RandomMask& a, int64_t begin, int64_t end, void* scratch) {
  const int64_t patches = a.num_patches;
  for (int64_t n = begin; n < end; ++n) {
    const Draws draws = draw(a.seed, a.stream, a.ids[n], patches, scratch);
    int64_t* out = a.out + n * patches;
    if (!a.raster) {
      sort_first(draws, patches);
      for (int64_t l = 0; l < patches; ++l) out[l] = index_of(draws.keys[l]);
      continue;
    }
    const uint64_t last = last_key(draws, a.num_keep), limit = last >> 32;
    // Every patch is written to both lists; only one list then grows. This avoids a branch that would mispredict.
    int64_t visible = 0;
    int64_t* hidden = reinterpret_cast<int64_t*>(draws.keys);
    const auto divide = [&](int64_t first, int64_t behind, uint64_t bound) {
      for (int64_t l = first; l < behind; ++l) {
        out[visible] = hidden[l - visible] = l;
        visible += draws.words[l] < bound;
      }
    };
    divide(0, index_of(last) + 1, limit + 1);
    divide(index_of(last) + 1, patches, limit);
    memcpy(out + a.num_keep, hidden, (patches - a.num_keep) * sizeof(int64_t));
  }
}

}  // namespace fastmim::FASTMIM_ISA
