#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// What patches are sorted by: the draw and, among equal draws, the index.
inline uint64_t key_of(const uint32_t* draws, int64_t l) { return uint64_t{draws[l]} << 32 | static_cast<uint64_t>(l); }

void insertion_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int64_t at = i;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

// Writes all patches in the order of their draws. counts: how many draws fall in each bucket; used up.
void sort_all(const uint32_t* draws, int64_t patches, uint32_t* counts, int bits, uint64_t* keys, int64_t* out) {
  uint32_t start = 0;
  for (int64_t i = 0; i < int64_t{1} << bits; ++i) {
    const uint32_t count = counts[i];
    counts[i] = start;
    start += count;
  }
  for (int64_t l = 0; l < patches; ++l) keys[counts[draws[l] >> (32 - bits)]++] = key_of(draws, l);
  insertion_sort(keys, patches);  // moves a key only within its bucket
  for (int64_t l = 0; l < patches; ++l) out[l] = static_cast<int64_t>(keys[l] & 0xffffffff);
}

// Writes the num_keep patches with the smallest keys, then the others, both ascending.
void select_smallest(const uint32_t* draws, int64_t patches, int64_t num_keep, const uint32_t* counts, int bits,
                     uint64_t* keys, int64_t* out) {
  const int shift = 32 - bits;
  // The bucket in which the visible patches end, and how many of it are visible.
  uint32_t last = 0, wanted = static_cast<uint32_t>(num_keep);
  for (; counts[last] < wanted; ++last) wanted -= counts[last];
  int64_t found = 0;
  for (int64_t first = 0; first < patches; first += 64) {
    uint64_t in_last = 0;  // one bit a patch
#pragma omp simd reduction(| : in_last)
    for (int64_t l = 0; l < 64; ++l) in_last |= uint64_t{draws[first + l] >> shift == last} << l;
    for (; in_last; in_last &= in_last - 1) {
      const int64_t l = first + __builtin_ctzll(in_last);
      if (l < patches) keys[found++] = key_of(draws, l);
    }
  }
  insertion_sort(keys, found);
  const uint64_t limit = keys[wanted - 1] >> 32;
  const int64_t middle = static_cast<int64_t>(keys[wanted - 1] & 0xffffffff) + 1;

  // Every patch is written to both lists, and stays in the one that then grows: no branch to mispredict.
  int64_t visible = 0;
  int64_t* hidden = reinterpret_cast<int64_t*>(keys);
  const auto divide = [&](int64_t begin, int64_t end, uint64_t bound) {
    for (int64_t l = begin; l < end; ++l) {
      out[visible] = hidden[l - visible] = l;
      visible += draws[l] < bound;
    }
  };
  divide(0, middle, limit + 1);
  divide(middle, patches, limit);
  memcpy(out + num_keep, hidden, (patches - num_keep) * sizeof(int64_t));
}

}  // namespace

void random_mask_rows(const RandomMask& a, int64_t begin, int64_t end, void* scratch) {
  const int64_t patches = a.num_patches;
  const int bits = random_mask_bits(patches), shift = 32 - bits;
  auto* keys = static_cast<uint64_t*>(scratch);
  auto* counts = reinterpret_cast<uint32_t*>(keys + patches);
  auto* draws = counts + (int64_t{1} << bits);
  uint64_t counters[4][philox_lanes];
  for (uint64_t& word : counters[3]) word = a.stream;
  for (int64_t n = begin; n < end; ++n) {
    for (uint64_t& word : counters[1]) word = static_cast<uint64_t>(a.ids[n]);
    for (uint64_t& word : counters[2]) word = static_cast<uint64_t>(a.ids[n]) >> 32;
    for (int64_t block = 0; 4 * block < patches; block += philox_lanes) {
      for (int64_t i = 0; i < philox_lanes; ++i) counters[0][i] = static_cast<uint64_t>(block + i);
      philox_words(a.seed, counters, draws + 4 * block);
    }
    memset(counts, 0, sizeof(uint32_t) << bits);
    for (int64_t l = 0; l < patches; ++l) ++counts[draws[l] >> shift];
    if (a.raster) {
      select_smallest(draws, patches, a.num_keep, counts, bits, keys, a.out + n * patches);
    } else {
      sort_all(draws, patches, counts, bits, keys, a.out + n * patches);
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
