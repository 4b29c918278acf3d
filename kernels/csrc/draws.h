// Random draws of one image and their order, from which masks are made. For op bodies, see body.h.
#pragma once

#include "philox.h"

namespace fastmim {

// Number of high bits of a draw that name its bucket. With 2 to 4 buckets per draw, few buckets hold two draws.
inline constexpr int draw_bits(int64_t n) {
  int bits = 2;
  while (bits < 32 && int64_t{1} << bits < 2 * n) ++bits;
  return bits;
}

// Bytes of scratch for n draws, at an address that is a multiple of 8.
inline constexpr int64_t draws_scratch(int64_t n) {
  const int64_t group = 4 * philox_lanes, words = (n + group - 1) / group * group;
  return 8 * n + 4 * words + (int64_t{4} << draw_bits(n));
}

#ifdef FASTMIM_ISA
// These functions are too large to be inlined, so their namespace has the name of the instruction set.
namespace FASTMIM_ISA {
namespace {

struct Draws {
  int64_t n;
  int shift;              // draw >> shift is the bucket of a draw
  uint64_t* keys;         // room for n keys
  uint32_t* counts;       // number of draws in each bucket
  const uint32_t* words;  // the draws
};

// Sort key of a draw: the draw, then the index.
inline uint64_t key_of(const uint32_t* words, int64_t i) { return uint64_t{words[i]} << 32 | static_cast<uint64_t>(i); }

inline int64_t index_of(uint64_t key) { return static_cast<int64_t>(key & 0xffffffff); }

// Draws the first n words of an id.
inline Draws draw(uint64_t seed, uint32_t stream, int64_t id, int64_t n, void* scratch) {
  const int bits = draw_bits(n);
  auto* keys = static_cast<uint64_t*>(scratch);
  auto* counts = reinterpret_cast<uint32_t*>(keys + n);
  auto* words = counts + (int64_t{1} << bits);
  uint64_t counters[4][philox_lanes];
  for (uint64_t& word : counters[1]) word = static_cast<uint64_t>(id);
  for (uint64_t& word : counters[2]) word = static_cast<uint64_t>(id) >> 32;
  for (uint64_t& word : counters[3]) word = stream;
  for (int64_t block = 0; 4 * block < n; block += philox_lanes) {
    for (int64_t i = 0; i < philox_lanes; ++i) counters[0][i] = static_cast<uint64_t>(block + i);
    philox_words(seed, counters, words + 4 * block);
  }
  memset(counts, 0, sizeof(uint32_t) << bits);
  for (int64_t i = 0; i < n; ++i) ++counts[words[i] >> (32 - bits)];
  return {n, 32 - bits, keys, counts, words};
}

inline void insertion_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int64_t at = i;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

// Replaces each count by the sum of the counts before it. Works on four counts at a time, so that the chain of
// dependent additions is four times shorter.
inline void running_sums(uint32_t* counts, int64_t n) {
  uint32_t start = 0;
  for (int64_t i = 0; i < n; i += 4) {
    const uint32_t one = counts[i], two = one + counts[i + 1], third = counts[i + 2], all = two + third + counts[i + 3];
    counts[i] = start;
    counts[i + 1] = start + one;
    counts[i + 2] = start + two;
    counts[i + 3] = start + two + third;
    start += all;
  }
}

// Writes all keys to `keys`, the first `wanted` sorted. Destroys the counts.
inline void sort_first(const Draws& a, int64_t wanted) {
  running_sums(a.counts, int64_t{1} << (32 - a.shift));
  for (int64_t i = 0; i < a.n; ++i) a.keys[a.counts[a.words[i] >> a.shift]++] = key_of(a.words, i);
  // A key moves only within its bucket; counts now holds the end of each bucket.
  const int64_t end = a.counts[a.keys[wanted - 1] >> 32 >> a.shift];
  // Two rounds without branches sort buckets of two keys, the most frequent case, where branches would mispredict.
  for (int64_t first = 0; first < 2; ++first) {
    for (int64_t i = first; i < end - 1; i += 2) {
      const uint64_t x = a.keys[i], y = a.keys[i + 1];
      a.keys[i] = x < y ? x : y;
      a.keys[i + 1] = x < y ? y : x;
    }
  }
  insertion_sort(a.keys, end);
}

// Returns the largest of the `wanted` smallest keys. Sorts only the bucket that holds it.
inline uint64_t last_key(const Draws& a, int64_t wanted) {
  uint32_t last = 0, left = static_cast<uint32_t>(wanted);
  for (; a.counts[last] < left; ++last) left -= a.counts[last];
  int64_t found = 0;
  for (int64_t first = 0; first < a.n; first += 64) {
    uint64_t in_last = 0;  // one bit per draw
#pragma omp simd reduction(| : in_last)
    for (int64_t i = 0; i < 64; ++i) in_last |= uint64_t{a.words[first + i] >> a.shift == last} << i;
    for (; in_last; in_last &= in_last - 1) {
      const int64_t i = first + __builtin_ctzll(in_last);
      if (i < a.n) a.keys[found++] = key_of(a.words, i);
    }
  }
  insertion_sort(a.keys, found);
  return a.keys[left - 1];
}

}  // namespace
}  // namespace FASTMIM_ISA
#endif

}  // namespace fastmim
