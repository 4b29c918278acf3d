#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Draws the visible corner of each block, 0 to 3.
void draw_corners(const UniformMask& a, int64_t id, int64_t* corners, void* scratch) {
  const int64_t blocks = a.rows * a.columns / 4, pool = uniform_mask_pool(a.rows, a.columns), each = pool / 4;
  if (a.stratified) {
    const Draws draws = draw(a.seed, a.stream, id, pool, scratch);
    sort_first(draws, blocks);
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t i = index_of(draws.keys[k]);
      corners[k] = (i >= each) + (i >= 2 * each) + (i >= 3 * each);
    }
  } else {
    const Draws draws = draw(a.seed, a.stream, id, blocks, scratch);
    for (int64_t k = 0; k < blocks; ++k) corners[k] = draws.words[k] >> 30;
  }
}

}  // namespace

void uniform_mask_rows(const UniformMask& a, int64_t begin, int64_t end, void* scratch) {
  const int64_t across = a.columns / 2, blocks = a.rows / 2 * across;
  for (int64_t n = begin; n < end; ++n) {
    int64_t* keep = a.order + n * 4 * blocks;
    draw_corners(a, a.ids[n], keep, scratch);
    // The loop runs from the last patch to the first. It writes both patches of a pair, and the next pair overwrites a
    // surplus patch. The last pair written may reach into `keep`, so the last corner in `keep` is saved first.
    int64_t* hidden = keep + 4 * blocks;
    const int64_t spared = keep[blocks - 1];
    for (int64_t r = a.rows / 2 - 1; r >= 0; --r) {
      for (int64_t lower = 1; lower >= 0; --lower) {
        for (int64_t c = across - 1; c >= 0; --c) {
          const int64_t corner = keep[r * across + c] - 2 * lower, patch = (2 * r + lower) * a.columns + 2 * c;
          hidden[-1] = patch + (corner != 1);
          hidden[-2] = patch;
          hidden -= 2 - (corner == 0 || corner == 1);
        }
      }
    }
    keep[blocks - 1] = spared;
    for (int64_t r = 0; r < a.rows / 2; ++r) {
      for (int64_t c = 0; c < across; ++c) {
        const int64_t corner = keep[r * across + c];
        keep[r * across + c] = (2 * r + corner / 2) * a.columns + 2 * c + corner % 2;
      }
    }

    bool* secondary = a.secondary + n * blocks;
    if (a.kept == blocks) {
      memset(secondary, 0, blocks);
      continue;
    }
    const Draws draws = draw(a.seed, a.secondary_stream, a.ids[n], blocks, scratch);
    const uint64_t last = last_key(draws, a.kept);
    for (int64_t k = 0; k < blocks; ++k) secondary[k] = key_of(draws.words, k) > last;
  }
}

}  // namespace fastmim::FASTMIM_ISA
