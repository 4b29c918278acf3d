// Random words, against the known answers of Random123.
#include "body_test.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

// The known answers (kat_vectors, "philox4x32 10"): the counter is (block, id, stream), the key the seed.
void test_philox_answers(PhiloxBlocks* body, const char* isa) {
  const struct {
    uint64_t seed, block, id;
    uint32_t stream;
    std::vector<int64_t> words;
  } answers[] = {
      {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, 0xffffffff, ~0ull, 0xffffffff, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822, 0x243f6a88, 0x13198a2e85a308d3, 0x03707344, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& answer : answers) {
    const int64_t id = static_cast<int64_t>(answer.id), block = static_cast<int64_t>(answer.block);
    std::vector<int64_t> words(4);
    body({answer.seed, answer.stream, &id, int64_t{1} << 34}, block, block + 1, words.data());
    check(words == answer.words, "known answer of philox", isa);
  }
}

}  // namespace

FASTMIM_TEST(philox) {
  test_philox_answers(FASTMIM_BODY(philox_blocks), isa);
}

}  // namespace fastmim
