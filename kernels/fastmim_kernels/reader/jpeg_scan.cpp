#include <algorithm>
#include <vector>

#include "jpeg.h"

namespace fastmim::reader {
namespace {

struct BadCode {};

// Reads entropy-coded bits: a byte 0xff is followed by a stuffed zero.
class Bits {
 public:
  explicit Bits(Bytes bytes) : cursor_(bytes) {}

  int bit() {
    if (left_ == 0) {
      byte_ = cursor_.u8();
      while (byte_ == 0xff && (next_ = cursor_.u8()) == 0xff) {
      }
      left_ = 8;
    }
    return byte_ >> --left_ & 1;
  }
  void skip(int n) {
    while (n-- > 0) bit();
  }
  int symbol(const Huffman& table) {
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= 16; ++length) {
      code = code << 1 | bit();
      first <<= 1;
      if (code - first < table.counts[length]) return table.symbols[index + code - first];
      index += table.counts[length];
      first += table.counts[length];
    }
    throw BadCode{};
  }

 private:
  Cursor cursor_;
  uint8_t byte_ = 0, next_ = 0;
  int left_ = 0;
};

void skip_block(Bits& bits, const Huffman& dc, const Huffman& ac) {
  bits.skip(bits.symbol(dc));
  for (int k = 1; k < 64; ++k) {
    const int symbol = bits.symbol(ac), zeros = symbol >> 4, size = symbol & 15;
    if (size == 0 && zeros != 15) break;
    k += zeros;
    bits.skip(size);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

bool scan_is_whole(Bytes scan, const Jpeg& jpeg) {
  int h = 1, v = 1;
  for (int i = 0; i < jpeg.components; ++i) {
    h = std::max<int>(h, jpeg.component[i].h);
    v = std::max<int>(v, jpeg.component[i].v);
  }
  const bool single = jpeg.components == 1;  // not interleaved: an MCU is one block
  if (single) h = v = 1;
  const int64_t mcus = ceil_div(jpeg.width, 8 * h) * ceil_div(jpeg.height, 8 * v);

  const int64_t stretch = jpeg.restart ? jpeg.restart : mcus, expected = ceil_div(mcus, stretch);
  int64_t found = 1;  // stretches between restart markers
  size_t begin = 0;   // of the last one
  for (size_t i = 0; i + 1 < scan.size; ++i) {
    if (scan.data[i] != 0xff || scan.data[i + 1] < 0xd0 || scan.data[i + 1] > 0xd7) continue;
    if (scan.data[i + 1] != 0xd0 + (found - 1) % 8) return true;  // damaged: decoders resynchronise
    begin = i + 2;
    if (++found > expected) return true;
  }
  if (found < expected) return false;
  Bits bits({scan.data + begin, scan.size - begin});
  try {
    for (int64_t mcu = mcus - (expected - 1) * stretch; mcu > 0; --mcu) {
      for (int i = 0; i < jpeg.components; ++i) {
        const Component& c = jpeg.component[i];
        for (int block = single ? 1 : c.h * c.v; block > 0; --block) skip_block(bits, jpeg.dc[c.dc], jpeg.ac[c.ac]);
      }
    }
  } catch (const OutOfBytes&) {
    return false;
  } catch (const BadCode&) {
    // Damaged, which decoders forgive.
  }
  return true;
}

}  // namespace fastmim::reader
