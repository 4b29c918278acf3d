// PNG (W3C): walks the chunks. Verifies checksums where Pillow does: before the image data.
#include <algorithm>
#include <array>
#include <string_view>

#include "header.h"

namespace fastmim::reader {
namespace {

constexpr std::array<uint32_t, 256> crc_table = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t n = 0; n < 256; ++n) {
    uint32_t c = n;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
    table[n] = c;
  }
  return table;
}();

uint32_t crc32(Bytes bytes) {
  uint32_t c = 0xffffffff;
  for (size_t i = 0; i < bytes.size; ++i) c = crc_table[(c ^ bytes.data[i]) & 255] ^ c >> 8;
  return ~c;
}

bool named(Bytes kind, const char* name) { return kind.starts_with(name, 4); }

bool is_word(Bytes kind) {
  for (size_t i = 0; i < 4; ++i) {
    const uint8_t c = kind.data[i];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!letter && !(c >= '0' && c <= '9') && c != '_') return false;
  }
  return true;
}

void read_ihdr(Bytes data, Header& header) {
  Cursor cursor(data);
  header.width = cursor.u32();
  header.height = cursor.u32();
  const int bits = cursor.u8(), color = cursor.u8();
  const bool good = color == 0   ? bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16
                    : color == 3 ? bits == 1 || bits == 2 || bits == 4 || bits == 8
                                 : (color == 2 || color == 4 || color == 6) && (bits == 8 || bits == 16);
  cursor.skip(1);  // compression method: there is only one
  const int filter = cursor.u8(), interlace = cursor.u8();
  if (!good || filter) {
    throw Hopeless{"damaged: a PNG of " + std::to_string(bits) + " bits, colour type " + std::to_string(color) +
                   ", filter method " + std::to_string(filter)};
  }
  header.bits = bits;
  header.channels = color == 2 ? 3 : color == 4 ? 2 : color == 6 ? 4 : 1;
  header.palette = color == 3;
  header.alpha = color == 4 || color == 6;
  header.progressive = interlace != 0;
}

// True if a chunk holds compressed text or a profile that may unpack to more than 1 MiB, given zlib's largest ratio of
// 1032. Pillow refuses such a file; other decoders never unpack the chunk.
bool may_be_bomb(Bytes kind, Bytes data) {
  return data.size > 1000 && (named(kind, "zTXt") || named(kind, "iTXt") || named(kind, "iCCP"));
}

bool has_end(Cursor cursor) {
  const Bytes rest = cursor.take(cursor.left());
  const std::string_view text(reinterpret_cast<const char*>(rest.data), rest.size);
  return text.find("IEND") != text.npos;
}

// After the first image data, looks for EXIF and for a truncated chunk. Only the decompressor knows the end of the
// pixels. So a file that ends between chunks may be whole. The same holds for a file that lacks a few bytes of its last
// chunk (the checksum of the pixels, empty blocks), and for a wrong length of the last chunk.
void walk_after_data(Cursor& cursor, bool animated, Header& header) {
  constexpr uint64_t slack = 16;
  while (cursor.left() >= 8) {
    const uint32_t length = cursor.u32();
    const Bytes kind = cursor.take(4);
    if (!is_word(kind) || named(kind, "IEND") || (animated && named(kind, "fcTL"))) return;
    ++header.parts;
    const bool pixels = named(kind, "IDAT") || named(kind, "DDAT") || named(kind, "fdAT");
    if (pixels && length > cursor.left() && has_end(cursor)) return;
    if (length > cursor.left() + (pixels ? slack : 0)) {
      throw Hopeless{"truncated: the PNG lacks " + std::to_string(length - cursor.left()) + " bytes of its last chunk"};
    }
    if (length + 4ull > cursor.left()) return;
    const Bytes data = cursor.take(length);
    cursor.skip(4);
    if (named(kind, "eXIf")) read_exif(data, header);
    if (may_be_bomb(kind, data)) header.irregular = 1;
  }
}

}  // namespace

void parse_png(Bytes bytes, Header& header) {
  Cursor cursor(bytes);
  cursor.skip(8);
  bool animated = false, colours = false;
  for (;;) {
    const size_t begin = cursor.at();
    const uint32_t length = cursor.u32();
    const Bytes kind = cursor.take(4);
    const std::string name(kind.data, kind.data + 4);
    if (!is_word(kind)) throw Hopeless{"damaged: a PNG chunk has no proper name"};
    if (named(kind, "IEND")) throw Hopeless{"damaged: the PNG has no image data"};
    if (named(kind, "IDAT") || named(kind, "fdAT")) {
      if (header.channels == 0) throw Hopeless{"damaged: the PNG has image data before its header"};
      if (header.palette && !colours) throw Hopeless{"damaged: the PNG has no palette"};
      cursor.seek(begin);
      return walk_after_data(cursor, animated, header);
    }
    ++header.parts;
    const Bytes data = cursor.take(length);
    const uint32_t checksum = cursor.u32();
    if (checksum != crc32({kind.data, length + 4ull})) throw Hopeless{"damaged: wrong checksum in PNG chunk " + name};
    if (named(kind, "IHDR")) read_ihdr(data, header);
    colours |= named(kind, "PLTE");
    if (named(kind, "acTL")) {
      animated = true;
      if (data.size >= 4) header.frames = std::max<int64_t>(1, Cursor(data).u32());
    }
    if (named(kind, "tRNS")) header.alpha = 1;
    if (may_be_bomb(kind, data)) header.irregular = 1;
    if (named(kind, "eXIf")) read_exif(data, header);
  }
}

}  // namespace fastmim::reader
