#include "cpu_body.h"

#include "philox.h"

namespace fastmim::FASTMIM_ISA {

void philox_blocks(const Philox& a, int64_t begin, int64_t end, int64_t* out) {
  const int64_t blocks = (a.n + 3) / 4;
  int64_t row = begin / blocks, block = begin % blocks;
  uint64_t counters[4][philox_lanes] = {};
  for (uint64_t& word : counters[3]) word = a.stream;
  for (int64_t at = begin; at < end; at += philox_lanes) {
    const int64_t count = end - at < philox_lanes ? end - at : philox_lanes;
    int64_t block_of[philox_lanes];
    for (int64_t i = 0; i < count; ++i) {
      block_of[i] = block;
      counters[0][i] = static_cast<uint64_t>(block);
      counters[1][i] = static_cast<uint64_t>(a.ids[row]);
      counters[2][i] = static_cast<uint64_t>(a.ids[row]) >> 32;
      row += block + 1 == blocks;
      block = block + 1 == blocks ? 0 : block + 1;
    }
    uint32_t words[4 * philox_lanes];
    philox_words(a.seed, counters, words);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t left = a.n - 4 * block_of[i], wanted = left < 4 ? left : 4;
      for (int64_t w = 0; w < wanted; ++w) *out++ = words[4 * i + w];
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
