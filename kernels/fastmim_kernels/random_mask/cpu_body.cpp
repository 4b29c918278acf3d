#include "cpu_body.h"

#include "philox.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Keys are distinct: the draw above the index of the patch.
void insertion_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int64_t at = i;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

}  // namespace

void random_mask_rows(const RandomMask& a, int64_t begin, int64_t end, void* scratch) {
  const int64_t patches = a.num_patches;
  const int bits = random_mask_bits(patches), shift = 32 - bits;
  const int64_t buckets = int64_t{1} << bits;
  auto* keys = static_cast<uint64_t*>(scratch);
  auto* counts = reinterpret_cast<uint32_t*>(keys + patches);
  auto* draws = counts + buckets;
  uint64_t counters[4][philox_lanes];
  for (uint64_t& word : counters[3]) word = a.stream;
  for (int64_t n = begin; n < end; ++n) {
    for (uint64_t& word : counters[1]) word = static_cast<uint64_t>(a.ids[n]);
    for (uint64_t& word : counters[2]) word = static_cast<uint64_t>(a.ids[n]) >> 32;
    for (int64_t block = 0; 4 * block < patches; block += philox_lanes) {
      for (int64_t i = 0; i < philox_lanes; ++i) counters[0][i] = static_cast<uint64_t>(block + i);
      philox_words(a.seed, counters, draws + 4 * block);
    }
    memset(counts, 0, buckets * sizeof(uint32_t));
    for (int64_t l = 0; l < patches; ++l) ++counts[draws[l] >> shift];

    int64_t* out = a.out + n * patches;
    if (a.raster) {
      // The bucket in which the visible patches end, and how many of it are visible.
      uint32_t last = 0, wanted = static_cast<uint32_t>(a.num_keep);
      for (; counts[last] < wanted; ++last) wanted -= counts[last];
      int64_t found = 0;
      for (int64_t l = 0; l < patches; ++l) {
        keys[found] = uint64_t{draws[l]} << 32 | static_cast<uint64_t>(l);
        found += draws[l] >> shift == last;
      }
      insertion_sort(keys, counts[last]);
      const uint64_t limit = keys[wanted - 1];
      int64_t visible = 0;
      for (int64_t l = 0; l < patches; ++l) {
        const bool keep = (uint64_t{draws[l]} << 32 | static_cast<uint64_t>(l)) <= limit;
        out[keep ? visible : a.num_keep + l - visible] = l;
        visible += keep;
      }
    } else {
      uint32_t start = 0;
      for (int64_t i = 0; i < buckets; ++i) {
        const uint32_t count = counts[i];
        counts[i] = start;
        start += count;
      }
      for (int64_t l = 0; l < patches; ++l) {
        keys[counts[draws[l] >> shift]++] = uint64_t{draws[l]} << 32 | static_cast<uint64_t>(l);
      }
      insertion_sort(keys, patches);
      for (int64_t l = 0; l < patches; ++l) out[l] = static_cast<int64_t>(keys[l] & 0xffffffff);
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
