#include "header.h"

#include <algorithm>

namespace fastmim::reader {
namespace {

struct Kind {
  size_t at;
  const char* magic;
  size_t length;
  const char* name;
};

#define KIND(at, magic, name) {at, magic, sizeof(magic) - 1, name}

// Formats in the order of the search.
constexpr Kind unsupported[] = {
    KIND(4, "ftyphei", "HEIC"),
    KIND(4, "ftyphev", "HEIC"),
    KIND(4, "ftypmif1", "HEIF"),
    KIND(4, "ftypmsf1", "HEIF"),
    KIND(4, "jP  \r\n", "JPEG 2000"),
    KIND(0, "\xff\x4f\xff\x51", "JPEG 2000"),
    KIND(4, "JXL \r\n", "JPEG XL"),
    KIND(0, "\xff\x0a", "JPEG XL"),
    KIND(0, "8BPS", "Photoshop"),
    KIND(0, "\0\0\1\0", "icon"),
};
constexpr Kind others[] = {
    KIND(4, "ftyp", "an MP4 or QuickTime video"),
    KIND(0, "%PDF", "a PDF document"),
    KIND(0, "PK\3\4", "a zip archive"),
    KIND(0, "\x1f\x8b", "a gzip archive"),
    KIND(0, "%!PS", "a PostScript document"),
};

bool is(const Kind& kind, Bytes bytes) {
  if (bytes.size < kind.at) return false;
  return Bytes{bytes.data + kind.at, bytes.size - kind.at}.starts_with(kind.magic, kind.length);
}

// True if a file with the container's common brand names AVIF among its compatible brands.
bool is_avif(Bytes bytes) {
  if (!is(KIND(4, "ftypmif1", ""), bytes) && !is(KIND(4, "ftypmsf1", ""), bytes)) return false;
  Cursor cursor(bytes);
  const uint64_t length = std::min<uint64_t>(cursor.u32(), bytes.size);
  for (uint64_t at = 16; at + 4 <= length; at += 4) {
    const Bytes brand{bytes.data + at, 4};
    if (brand.starts_with("avif", 4) || brand.starts_with("avis", 4)) return true;
  }
  return false;
}

Format sniff(Bytes bytes) {
  if (bytes.starts_with("\xff\xd8\xff", 3)) return jpeg;
  if (bytes.starts_with("\x89PNG\r\n\x1a\n", 8)) return png;
  if (is(KIND(0, "RIFF", ""), bytes) && is(KIND(8, "WEBP", ""), bytes)) return webp;
  if (bytes.starts_with("GIF87a", 6) || bytes.starts_with("GIF89a", 6)) return gif;
  // Bytes 3 and 4 may be in the wrong order; 43 marks BigTIFF.
  for (const char* magic : {"II*\0", "MM\0*", "II\0*", "MM*\0", "II+\0", "MM\0+"}) {
    if (bytes.starts_with(magic, 4)) return tiff;
  }
  if (bytes.starts_with("BM", 2)) return bmp;
  if (is(KIND(4, "ftypavif", ""), bytes) || is(KIND(4, "ftypavis", ""), bytes) || is_avif(bytes)) return avif;
  return unknown;
}

std::string describe(Bytes bytes) {
  for (const Kind& kind : unsupported) {
    if (is(kind, bytes)) return std::string("unsupported kind of image: ") + kind.name;
  }
  for (const Kind& kind : others) {
    if (is(kind, bytes)) return std::string("not an image but ") + kind.name;
  }
  const uint8_t* end = bytes.data + bytes.size;
  if (std::all_of(bytes.data, end, [](uint8_t c) { return c == 0; })) return "not an image: nothing but zero bytes";
  std::string start(bytes.data, bytes.data + std::min<size_t>(bytes.size, 256));
  if (start.rfind("\xef\xbb\xbf", 0) == 0) start.erase(0, 3);
  start.erase(0, start.find_first_not_of(" \t\r\n"));
  std::transform(start.begin(), start.end(), start.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  if (start.rfind("<!doctype html", 0) == 0 || start.rfind("<html", 0) == 0) return "not an image but an HTML page";
  if (start.rfind("<svg", 0) == 0) return "unsupported kind of image: SVG";
  if (start.rfind("<?xml", 0) == 0) return "not an image but XML";
  const auto printable = [](char c) { return (c >= ' ' && c < 127) || c == '\n' || c == '\r' || c == '\t'; };
  if (std::all_of(start.begin(), start.end(), printable)) return "not an image but text";
  return "not an image of a known format";
}

const char* name_of(int64_t format) {
  static const char* const names[] = {"file", "JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF"};
  return names[format];
}

void parse_known(Bytes bytes, Header& header) {
  switch (header.format) {
    case jpeg: return parse_jpeg(bytes, header);
    case png: return parse_png(bytes, header);
    case webp: return parse_webp(bytes, header);
    case bmp: return parse_bmp(bytes, header);
    case tiff: return parse_tiff(bytes, header);
    case gif: return parse_gif(bytes, header);
    case avif: return parse_avif(bytes, header);
  }
}

}  // namespace

void check_size(const Header& header) {
  const std::string size = std::to_string(header.width) + " x " + std::to_string(header.height) + " pixels";
  if (header.width < 1 || header.height < 1) throw Hopeless{"no pixels: the header says " + size};
  if (header.width > INT32_MAX || header.height > INT32_MAX) throw Hopeless{"damaged: the header says " + size};
}

std::string parse(Bytes bytes, Header& header, bool pixels) {
  header = Header{};
  if (bytes.size == 0) return "empty: the file has no bytes";
  header.format = sniff(bytes);
  if (header.format == unknown) return describe(bytes);
  try {
    parse_known(bytes, header);
    check_size(header);
    if (pixels && header.format == jpeg) check_pixels(bytes);
  } catch (const Hopeless& hopeless) {
    return hopeless.why;
  } catch (const OutOfBytes&) {
    return std::string("truncated: the ") + name_of(header.format) + " ends inside its header";
  }
  return "";
}

}  // namespace fastmim::reader
