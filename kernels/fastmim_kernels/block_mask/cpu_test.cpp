// Masks of blocks, against the blocks of a random mask.
#include "body_test.h"
#include "cpu_body.h"
#include "../random_mask/cpu_body.h"

namespace fastmim {
namespace {

void test_block_mask(RandomMaskRows* random_mask, BlockMaskRows* body, const char* isa, int64_t rows, int64_t columns,
                     int64_t side) {
  const std::vector<int64_t> ids{0, -1, 5};
  const int64_t blocks = block_mask_blocks(rows, columns, side), across = (columns + side - 1) / side;
  std::vector<int64_t> order(ids.size() * rows * columns), drawn(ids.size() * blocks), expected;
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(blocks) / sizeof(uint64_t));
    body({7, 3, ids.data(), rows, columns, side, order.data()}, begin, end, scratch.data());
    random_mask({7, 3, ids.data(), blocks, 1, false, drawn.data()}, begin, end, scratch.data());
  });
  for (int64_t block : drawn) {
    for (int64_t i = 0; i < side * side; ++i) {
      const int64_t r = block / across * side + i % side, c = block % across * side + i / side;
      if (r < rows && c < columns) expected.push_back(r * columns + c);
    }
  }
  check(order == expected, "block mask", isa);
}

}  // namespace

FASTMIM_TEST(block_mask) {
  for (int64_t rows : {2, 6, 16}) {
    for (int64_t columns : {2, 14, 16}) {
      for (int64_t side : {1, 2, 5}) {
        test_block_mask(FASTMIM_BODY(random_mask_rows), FASTMIM_BODY(block_mask_rows), isa, rows, columns, side);
      }
    }
  }
}

}  // namespace fastmim
