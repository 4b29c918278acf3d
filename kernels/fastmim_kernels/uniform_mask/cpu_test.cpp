// Properties of uniform masks: one visible patch per block, a permutation, ascending hidden patches.
#include "body_test.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

void test_uniform_mask(UniformMaskRows* body, const char* isa, int64_t rows, int64_t columns, int64_t kept,
                       bool stratified) {
  const std::vector<int64_t> ids{0, -1, 5};
  const int64_t blocks = rows * columns / 4, across = columns / 2;
  std::vector<int64_t> order(ids.size() * 4 * blocks);
  const std::unique_ptr<bool[]> secondary(new bool[ids.size() * blocks]);
  const UniformMask work{7, 3, 6, ids.data(), rows, columns, kept, stratified, order.data(), secondary.get()};
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(uniform_mask_pool(rows, columns)) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  for (size_t n = 0; n < ids.size(); ++n) {
    const int64_t* patches = order.data() + n * 4 * blocks;
    int64_t replaced = 0;
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t block = patches[k] / columns / 2 * across + patches[k] % columns / 2;
      check(block == k, "uniform mask: one visible patch in each block", isa);
      replaced += secondary[n * blocks + k];
    }
    check(replaced == blocks - kept, "uniform mask: replaced patches", isa);
    check(std::is_sorted(patches + blocks, patches + 4 * blocks), "uniform mask: hidden patches", isa);
    std::vector<int64_t> all(patches, patches + 4 * blocks);
    std::sort(all.begin(), all.end());
    for (int64_t l = 0; l < 4 * blocks; ++l) check(all[l] == l, "uniform mask: a permutation", isa);
  }
}

}  // namespace

FASTMIM_TEST(uniform_mask) {
  UniformMaskRows* body = FASTMIM_BODY(uniform_mask_rows);
  for (int64_t rows : {2, 6, 16}) {
    for (int64_t columns : {2, 14, 16}) {
      const int64_t blocks = rows * columns / 4;
      for (bool stratified : {false, true}) {
        test_uniform_mask(body, isa, rows, columns, blocks, stratified);
        test_uniform_mask(body, isa, rows, columns, (blocks + 1) / 2, stratified);
      }
    }
  }
}

}  // namespace fastmim
