#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void block_mask_rows(const BlockMask& a, int64_t begin, int64_t end, void* scratch) {
  const int64_t blocks = block_mask_blocks(a.rows, a.columns, a.side), across = (a.columns + a.side - 1) / a.side;
  int64_t* out = a.order + begin * a.rows * a.columns;
  for (int64_t n = begin; n < end; ++n) {
    const Draws draws = draw(a.seed, a.stream, a.ids[n], blocks, scratch);
    sort_first(draws, blocks);
    for (int64_t k = 0; k < blocks; ++k) {
      const auto block = static_cast<uint32_t>(draws.keys[k]), width = static_cast<uint32_t>(across);
      const int64_t top = block / width * a.side, left = block % width * a.side;
      const int64_t bottom = top + a.side < a.rows ? top + a.side : a.rows;
      const int64_t right = left + a.side < a.columns ? left + a.side : a.columns;
      for (int64_t c = left; c < right; ++c) {
        for (int64_t r = top; r < bottom; ++r) *out++ = r * a.columns + c;
      }
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
