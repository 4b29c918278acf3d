// Random masks, against a stable sort of the draws.
#include "body_test.h"
#include "cpu_body.h"
#include "../philox/cpu_body.h"

namespace fastmim {
namespace {

// The first n words of every id, drawn in `parts` threads.
std::vector<int64_t> draw_words(PhiloxBlocks* body, const std::vector<int64_t>& ids, int64_t n, int parts) {
  const int64_t blocks = (n + 3) / 4;
  std::vector<int64_t> words(ids.size() * n);
  split(ids.size() * blocks, parts, [&](int64_t begin, int64_t end) {
    body({7, 3, ids.data(), n}, begin, end, words.data() + begin / blocks * n + begin % blocks * 4);
  });
  return words;
}

void test_random_mask(PhiloxBlocks* philox, RandomMaskRows* body, const char* isa, int64_t patches, int64_t keep,
                      bool raster) {
  const std::vector<int64_t> ids{0, -1, 5, int64_t{1} << 40, 9};
  const std::vector<int64_t> draws = draw_words(philox, ids, patches, 1);
  check(draws == draw_words(philox, ids, patches, 3), "same draws from one thread and from three", isa);
  std::vector<int64_t> expected(draws.size()), masks(draws.size());
  for (size_t n = 0; n < ids.size(); ++n) {
    const auto row = expected.begin() + n * patches;
    for (int64_t l = 0; l < patches; ++l) row[l] = l;
    std::stable_sort(row, row + patches, [&](int64_t i, int64_t j) {
      return draws[n * patches + i] < draws[n * patches + j];
    });
    if (raster) {
      std::sort(row, row + keep);
      std::sort(row + keep, row + patches);
    }
  }
  const RandomMask work{7, 3, ids.data(), patches, keep, raster, masks.data()};
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(patches) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  check(masks == expected, "random mask", isa);
}

}  // namespace

FASTMIM_TEST(random_mask) {
  PhiloxBlocks* philox = FASTMIM_BODY(philox_blocks);
  RandomMaskRows* body = FASTMIM_BODY(random_mask_rows);
  for (int64_t patches : {1, 2, 3, 4, 63, 64, 65, 196, 1009}) {
    for (int64_t keep : {int64_t{1}, (patches + 3) / 4, patches}) {
      for (bool raster : {false, true}) test_random_mask(philox, body, isa, patches, keep, raster);
    }
  }
}

}  // namespace fastmim
