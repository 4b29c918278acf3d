// Checks the entropy-coded pixels of a JPEG: there must be as many blocks as the header says. Decoders silently fill
// missing blocks with gray.
#include <algorithm>
#include <memory>

#include "jpeg.h"

namespace fastmim::reader {
namespace {

constexpr uint8_t first_restart = 0xd0, last_restart = 0xd7;

// Decodes codes of up to `bits` bits by table, two at once if they fit, and longer codes by search.
class Table {
 public:
  static constexpr int bits = 12;
  struct Entry {
    uint8_t length = 0;  // bits of the code and of the number after the code; 0 = a longer code
    uint8_t step = 0;    // number of coefficients to skip
  };

  Table(const Huffman& huffman, bool dc) : huffman_(huffman), dc_(dc) {
    unsigned code = 0, index = 0;
    for (int length = 1; length <= bits; ++length, code <<= 1) {
      for (int i = 0; i < huffman.counts[length]; ++i, ++code, ++index) {
        const Entry entry = of(huffman.symbols[index], length);
        const unsigned shift = static_cast<unsigned>(bits - length);
        if ((code + 1) << shift > 1u << bits) return;
        std::fill_n(entries_ + (code << shift), 1u << shift, entry);
      }
    }
    if (dc) return;
    for (unsigned i = 0; i < 1u << bits; ++i) {
      const Entry first = entries_[i], second = entries_[i << first.length & ((1u << bits) - 1)];
      const bool fits = first.step < 64 && second.length && first.length + second.length <= bits;
      pairs_[i] = first;
      if (!fits) continue;
      pairs_[i].length = static_cast<uint8_t>(first.length + second.length);
      pairs_[i].step = static_cast<uint8_t>(first.step + second.step);
    }
  }

  // Takes the next 16 bits. A returned length of 0 means that no such code exists.
  Entry find(unsigned next) const {
    const Entry entry = entries_[next >> (16 - bits)];
    return entry.length ? entry : search(next);
  }
  // Looks up two codes if the first does not end the block; the first skips 16 coefficients at most.
  Entry find_pair(unsigned next) const {
    const Entry entry = pairs_[next >> (16 - bits)];
    return entry.length ? entry : search(next);
  }

 private:
  Entry of(uint8_t symbol, int code_length) const {
    const int size = symbol & 15, zeros = symbol >> 4;
    const bool end = size == 0 && zeros != 15;
    return {static_cast<uint8_t>(code_length + size), static_cast<uint8_t>(dc_ ? 1 : end ? 64 : zeros + 1)};
  }

  Entry search(unsigned next) const {
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= 16; ++length) {
      code = code << 1 | static_cast<int>(next >> (16 - length) & 1);
      first <<= 1;
      if (code - first < huffman_.counts[length]) return of(huffman_.symbols[index + code - first], length);
      index += huffman_.counts[length];
      first += huffman_.counts[length];
    }
    return {};
  }

  const Huffman& huffman_;
  bool dc_;
  Entry entries_[1 << bits], pairs_[1 << bits];
};

// Reads entropy-coded bits. A zero byte is stuffed after each byte 0xff. From a marker on, the bits are zero.
class Bits {
 public:
  explicit Bits(Bytes bytes) : at_(bytes.data), end_(bytes.data + bytes.size) { find_escape(); }

  unsigned next16() {
    if (count_ < 32) fill();
    return static_cast<unsigned>(buffer_ >> (count_ - 16) & 0xffff);
  }
  void skip(int n) { count_ -= n; }
  // True if more bits were read than exist.
  bool exhausted() const { return made_up_ > count_; }

  // Moves past the next marker and returns the marker; 0 at the end of the bytes. `zeros` is the number of unused bytes
  // before the marker, if all of them are zero.
  uint8_t marker(size_t& zeros) {
    const int whole = (count_ - made_up_) / 8;
    bool all = (buffer_ >> made_up_ & ((uint64_t{1} << 8 * whole) - 1)) == 0;
    zeros = static_cast<size_t>(whole);
    count_ = made_up_ = 0;
    buffer_ = 0;
    while (end_ - at_ >= 2) {
      const uint8_t byte = *at_++;
      if (byte != 0xff || *at_ == 0) {
        all = all && byte == 0;
        ++zeros;
      } else if (*at_ != 0xff) {
        const uint8_t marker = *at_++;
        find_escape();
        if (!all) zeros = 0;
        return marker;
      }
    }
    return 0;
  }

 private:
  void find_escape() {
    const void* found = end_ > at_ ? std::memchr(at_, 0xff, static_cast<size_t>(end_ - at_)) : nullptr;
    escape_ = found ? static_cast<const uint8_t*>(found) : end_;
  }

  void fill() {
    if (escape_ - at_ >= 4) {
      const uint32_t word = static_cast<uint32_t>(at_[0]) << 24 | static_cast<uint32_t>(at_[1]) << 16 |
                            static_cast<uint32_t>(at_[2]) << 8 | at_[3];
      buffer_ = buffer_ << 32 | word;
      at_ += 4;
      count_ += 32;
      return;
    }
    while (count_ < 32) {
      uint8_t byte = 0;
      if (at_ < escape_) {
        byte = *at_++;
      } else if (end_ - at_ >= 2 && at_[1] == 0) {
        byte = 0xff;
        at_ += 2;
        find_escape();
      } else {
        made_up_ += 8;
      }
      buffer_ = buffer_ << 8 | byte;
      count_ += 8;
    }
  }

  const uint8_t *at_, *end_, *escape_;
  uint64_t buffer_ = 0;
  int count_ = 0, made_up_ = 0;  // bits in the buffer; the last may be made up
};

struct BadCode {};

void skip_block(Bits& bits, const Table& dc, const Table& ac) {
  Table::Entry entry = dc.find(bits.next16());
  if (!entry.length) throw BadCode{};
  bits.skip(entry.length);
  for (int k = 1; k < 64; k += entry.step) {
    entry = k < 48 ? ac.find_pair(bits.next16()) : ac.find(bits.next16());
    if (!entry.length) throw BadCode{};
    bits.skip(entry.length);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool whole(Bits& bits, const Jpeg& jpeg) {
  int h = 1, v = 1;
  for (int i = 0; i < jpeg.components; ++i) {
    h = std::max<int>(h, jpeg.component[i].h);
    v = std::max<int>(v, jpeg.component[i].v);
  }
  const bool single = jpeg.components == 1;  // not interleaved: an MCU is one block
  int64_t mcus = single ? ceil_div(jpeg.width * jpeg.component[0].h, 8 * h) * ceil_div(jpeg.height * jpeg.component[0].v, 8 * v)
                        : ceil_div(jpeg.width, 8 * h) * ceil_div(jpeg.height, 8 * v);
  std::unique_ptr<Table> dc[4], ac[4];
  for (int i = 0; i < jpeg.components; ++i) {
    const Component& c = jpeg.component[i];
    if (!dc[c.dc]) dc[c.dc] = std::make_unique<Table>(jpeg.dc[c.dc], true);
    if (!ac[c.ac]) ac[c.ac] = std::make_unique<Table>(jpeg.ac[c.ac], false);
  }
  size_t zeros = 0;
  for (uint8_t restart = first_restart;; restart = restart == last_restart ? first_restart : restart + 1) {
    const int64_t stretch = jpeg.restart ? std::min<int64_t>(jpeg.restart, mcus) : mcus;
    for (int64_t mcu = 0; mcu < stretch; ++mcu) {
      for (int i = 0; i < jpeg.components; ++i) {
        const Component& c = jpeg.component[i];
        for (int block = single ? 1 : c.h * c.v; block > 0; --block) skip_block(bits, *dc[c.dc], *ac[c.ac]);
      }
      if (bits.exhausted()) return false;
    }
    mcus -= stretch;
    const uint8_t marker = bits.marker(zeros);
    // Some writers leave a few bytes before the end marker, but no long run of zeros.
    constexpr size_t few = 16;
    if (mcus == 0) return zeros < few;
    if (marker != restart) return false;
  }
}

}  // namespace

void check_pixels(Bytes bytes) {
  Header header;
  Scan scan;
  parse_jpeg_scan(bytes, header, scan);
  const Jpeg& jpeg = scan.jpeg;
  constexpr size_t largest = size_t{1} << 27;  // larger files would block a reading thread for too long
  if (!scan.begin || header.irregular || bytes.size > largest) return;
  for (int i = 0; i < jpeg.components; ++i) {
    // Motion JPEGs lack their tables; the standard defines them.
    const Component& c = jpeg.component[i];
    if (!jpeg.dc[c.dc].defined || !jpeg.ac[c.ac].defined) return;
  }
  Bits bits({bytes.data + scan.begin, bytes.size - scan.begin});
  try {
    if (whole(bits, jpeg)) return;
  } catch (const BadCode&) {
  }
  throw Hopeless{"damaged: the JPEG's image data end early or are not what its header says"};
}

}  // namespace fastmim::reader
