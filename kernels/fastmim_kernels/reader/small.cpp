// Formats with short headers: WebP (RFC 9649), GIF (GIF89a), BMP (Windows and OS/2 bitmaps).
#include <algorithm>

#include "header.h"

namespace fastmim::reader {
namespace {

bool named(Bytes kind, const char* name) { return kind.starts_with(name, 4); }

void read_vp8(Bytes data, Header& header) {
  Cursor cursor(data, false);
  const uint8_t tag = cursor.u8();
  cursor.skip(2);
  const bool start_code = cursor.take(3).starts_with("\x9d\x01\x2a", 3);
  if ((tag & 1) || !start_code) throw Hopeless{"damaged: the WebP's VP8 data do not begin with a key frame"};
  header.width = cursor.u16() & 0x3fff;
  header.height = cursor.u16() & 0x3fff;
  header.channels = 3;
}

void read_vp8l(Bytes data, Header& header) {
  Cursor cursor(data, false);
  const uint8_t signature = cursor.u8();
  const uint32_t bits = cursor.u32();
  if (signature != 0x2f || bits >> 29) throw Hopeless{"damaged: the WebP's lossless data have no proper start"};
  header.width = (bits & 0x3fff) + 1;
  header.height = (bits >> 14 & 0x3fff) + 1;
  header.alpha = bits >> 28 & 1;
  header.channels = header.alpha ? 4 : 3;
}

// The extended WebP format: a canvas, then any number of chunks.
void read_vp8x(Bytes data, Cursor& chunks, Header& header) {
  Cursor cursor(data, false);
  const uint8_t flags = cursor.u8();
  constexpr uint8_t has_alpha = 0x10, has_exif = 0x08;
  cursor.skip(3);
  header.width = static_cast<int64_t>(cursor.number(3)) + 1;
  header.height = static_cast<int64_t>(cursor.number(3)) + 1;
  header.alpha = (flags & has_alpha) != 0;
  header.channels = header.alpha ? 4 : 3;
  bool image = false;
  header.frames = 0;
  while (chunks.left() >= 8) {
    ++header.parts;
    const Bytes kind = chunks.take(4);
    const uint32_t length = chunks.u32();
    const bool pixels = named(kind, "VP8 ") || named(kind, "VP8L") || named(kind, "ANMF");
    if (length > chunks.left()) {
      if (pixels && !image) throw Hopeless{"damaged: the WebP's image data are longer than its container"};
      break;
    }
    Bytes content = chunks.take(length);
    chunks.skip(std::min<size_t>(length & 1, chunks.left()));
    image |= pixels;
    header.frames += named(kind, "ANMF");
    if (named(kind, "EXIF") && (flags & has_exif)) {
      if (content.starts_with("Exif\0\0", 6)) content = {content.data + 6, content.size - 6};
      read_exif(content, header);
    }
  }
  header.frames = std::max<int64_t>(1, header.frames);
  if (!image) throw Hopeless{"damaged: the WebP has no image data"};
}

// Skips the blocks of a GIF up to an empty block; false if the file ends first. `missing`: bytes lacking in the last.
bool skip_blocks(Cursor& cursor, size_t* missing = nullptr) {
  while (cursor.left()) {
    const size_t length = cursor.u8();
    if (length == 0) return true;
    // If at most one byte follows, this length may be a damaged end of the image data, which does no harm.
    if (missing && length > cursor.left() && cursor.left() > 1) *missing = length - cursor.left();
    cursor.skip(std::min(length, cursor.left()));
  }
  return false;
}

// Counts the images in a GIF after the first.
int64_t further_images(Cursor& cursor) {
  int64_t count = 0;
  try {
    for (;;) {
      const uint8_t block = cursor.u8();
      if (block == ';') break;
      if (block == ',') {
        ++count;
        cursor.skip(8);
        const uint8_t local = cursor.u8();
        cursor.skip((local & 0x80 ? 3u << ((local & 7) + 1) : 0) + 1);
        skip_blocks(cursor);
      } else if (block == '!') {
        cursor.skip(1);
        skip_blocks(cursor);
      }
    }
  } catch (const OutOfBytes&) {
    // Counts the images that are present.
  }
  return count;
}

}  // namespace

void parse_webp(Bytes bytes, Header& header) {
  Cursor riff(bytes, false);
  riff.skip(4);
  const uint64_t size = riff.u32() + 8ull;
  if (size > bytes.size) {
    throw Hopeless{"truncated: the WebP says " + std::to_string(size) + " bytes, the file has " +
                   std::to_string(bytes.size)};
  }
  Cursor chunks({bytes.data, static_cast<size_t>(size)}, false);
  chunks.skip(12);
  const Bytes kind = chunks.take(4);
  const uint32_t length = chunks.u32();
  const Bytes data = chunks.take(length);
  chunks.skip(std::min<size_t>(length & 1, chunks.left()));
  if (named(kind, "VP8 ")) return read_vp8(data, header);
  if (named(kind, "VP8L")) return read_vp8l(data, header);
  if (named(kind, "VP8X")) return read_vp8x(data, chunks, header);
  throw Hopeless{"damaged: the WebP begins with an unknown chunk"};
}

void parse_gif(Bytes bytes, Header& header) {
  Cursor cursor(bytes, false);
  cursor.skip(6);
  header.width = cursor.u16();
  header.height = cursor.u16();
  const uint8_t flags = cursor.u8();
  cursor.skip(2);
  if (flags & 0x80) cursor.skip(3u << ((flags & 7) + 1));
  header.channels = 1;
  header.palette = 1;
  for (;;) {
    const uint8_t block = cursor.left() ? cursor.u8() : ';';
    if (block == ';') throw Hopeless{"damaged or truncated: the GIF has no image"};
    ++header.parts;
    if (block == '!') {
      const uint8_t label = cursor.u8();
      Cursor control = cursor;
      if (label == 0xf9 && control.u8() >= 1) header.alpha = control.u8() & 1;
      skip_blocks(cursor);
    } else if (block == ',') {
      break;
    }
  }
  const int64_t left = cursor.u16(), top = cursor.u16();
  // Decoders enlarge the canvas to hold its first image.
  header.width = std::max<int64_t>(header.width, left + cursor.u16());
  header.height = std::max<int64_t>(header.height, top + cursor.u16());
  const uint8_t local = cursor.u8();
  if (local & 0x80) cursor.skip(3u << ((local & 7) + 1));
  cursor.skip(1);  // size of the first codes
  // The compressed pixels may be complete without their end code of at most two bytes. A file with a correct end is not
  // truncated; a wrong length of some block may do no harm.
  constexpr size_t end_code = 2;
  size_t missing = 0;
  const bool ends_as_gif = Bytes{bytes.data + bytes.size - 2, 2}.starts_with("\0;", 2);
  if (!skip_blocks(cursor, &missing) && missing > end_code && !ends_as_gif) {
    throw Hopeless{"truncated: the GIF lacks " + std::to_string(missing) + " bytes of its image data"};
  }
  header.frames += further_images(cursor);
}

void parse_bmp(Bytes bytes, Header& header) {
  Cursor cursor(bytes, false);
  cursor.skip(10);
  uint64_t offset = cursor.u32();
  const uint32_t header_size = cursor.u32();
  constexpr uint32_t sizes[] = {12, 40, 52, 56, 64, 108, 124};
  if (std::find(std::begin(sizes), std::end(sizes), header_size) == std::end(sizes)) {
    throw Hopeless{"unsupported or damaged BMP: a header of " + std::to_string(header_size) + " bytes"};
  }
  Cursor info(cursor.take(header_size - 4), false);
  const bool core = header_size == 12;
  header.width = static_cast<int64_t>(info.number(core ? 2 : 4));
  header.height = static_cast<int64_t>(info.number(core ? 2 : 4));
  // A negative height means rows from top to bottom.
  if (!core && header.height >> 24 == 0xff) header.height = (int64_t{1} << 32) - header.height;
  info.skip(2);
  const int bits = info.u16();
  uint32_t compression = 0;
  uint64_t colors = 0;
  if (!core) {
    compression = info.u32();
    info.skip(12);
    colors = info.u32();
  }
  if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32) {
    throw Hopeless{"unsupported or damaged BMP: " + std::to_string(bits) + " bits per pixel"};
  }
  constexpr uint32_t plain = 0, bit_fields = 3;
  if (compression > bit_fields) throw Hopeless{"unsupported BMP: compression " + std::to_string(compression)};
  header.palette = bits <= 8;
  header.bits = bits <= 8 ? bits : bits == 16 ? 5 : 8;
  header.channels = bits <= 8 ? 1 : 3;
  if (compression == bit_fields && bits == 32 && header_size >= 56) {
    Cursor masks = info;
    masks.skip(4);  // number of important colours
    const uint32_t red = masks.u32(), green = masks.u32(), blue = masks.u32(), alpha = masks.u32();
    // Pillow treats a file without masks as one with alpha.
    header.alpha = alpha != 0 || (red | green | blue) == 0;
    if (header.alpha) header.channels = 4;
  }
  if (compression != plain && compression != bit_fields) {
    // Only a decoder finds the end of the run lengths, and it handles them one by one.
    constexpr size_t bytes_a_part = 8;
    header.parts = static_cast<int64_t>(bytes.size / bytes_a_part);
    return;
  }
  if (offset == 14 + header_size && bits <= 8) offset += (core ? 3 : 4) * (colors ? colors : 1ull << bits);
  if (offset == 0) offset = cursor.at();
  check_size(header);
  const uint64_t width = static_cast<uint64_t>(header.width) * static_cast<uint64_t>(bits);
  const uint64_t lines = static_cast<uint64_t>(header.height) - 1;
  const uint64_t line = (width + 31) / 32 * 4, end = (width + 7) / 8;
  if (offset > bytes.size || lines > (bytes.size - offset) / line || lines * line + end > bytes.size - offset) {
    throw Hopeless{"truncated: the BMP's pixels do not fit into its " + std::to_string(bytes.size) + " bytes"};
  }
}

}  // namespace fastmim::reader
