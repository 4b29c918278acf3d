// TIFF 6.0 and BigTIFF: reads the first directory of the file. EXIF has the same structure.
#include <algorithm>
#include <unordered_set>

#include "header.h"

namespace fastmim::reader {
namespace {

enum Tag : uint16_t {
  ImageWidth = 256, ImageLength = 257, BitsPerSample = 258, Compression = 259, Photometric = 262, StripOffsets = 273,
  Orientation = 274, SamplesPerPixel = 277, RowsPerStrip = 278, StripByteCounts = 279, PlanarConfiguration = 284,
  ColorMap = 320, TileWidth = 322, TileLength = 323, TileOffsets = 324, TileByteCounts = 325, ExtraSamples = 338,
  SampleFormat = 339, NumberOfPictures = 0xb001,
};

// Bytes of an integer type, 0 for other types. A negative number is read as a very large number, also hopeless.
int size_of(uint64_t type) {
  switch (type) {
    case 1: case 6: return 1;             // BYTE, SBYTE
    case 3: case 8: return 2;             // SHORT, SSHORT
    case 4: case 9: case 13: return 4;    // LONG, SLONG, IFD
    case 16: case 17: case 18: return 8;  // LONG8, SLONG8, IFD8
    default: return 0;
  }
}

// Bytes in the file of a value of any type.
uint64_t bytes_of(uint64_t type) {
  switch (type) {
    case 5: case 10: case 12: return 8;  // RATIONAL, SRATIONAL, DOUBLE
    case 11: return 4;                   // FLOAT
    default: return static_cast<uint64_t>(std::max(size_of(type), 1));
  }
}

// Bytes that a decoder keeps for a value of any type: Pillow makes an object of each value except plain bytes.
double weight_of(uint64_t type) {
  // A rational takes 300 bytes, but also 4 microseconds, the time of this many bytes.
  if (type == 5 || type == 10) return 1000;
  return bytes_of(type) == 1 && type != 6 ? 1 : 64;
}

// Values of one tag: integers, or none.
class Values {
 public:
  Values() : cursor_({nullptr, 0}) {}
  Values(Cursor at, int size, uint64_t count) : cursor_(at), size_(size), count_(count) {}
  uint64_t count() const { return count_; }
  uint64_t at(uint64_t i) const {
    Cursor cursor = cursor_;
    cursor.skip(i * static_cast<uint64_t>(size_));
    return cursor.number(size_);
  }
  uint64_t first(uint64_t otherwise) const { return count_ ? at(0) : otherwise; }

 private:
  Cursor cursor_;
  int size_ = 0;
  uint64_t count_ = 0;
};

class Directory {
 public:
  // Throws OutOfBytes if the directory lies beyond the end, Hopeless if this is no TIFF.
  explicit Directory(Bytes bytes) : bytes_(bytes), cursor_(bytes) {
    const Bytes order = cursor_.take(2);
    const bool big_endian = order.starts_with("MM", 2);
    if (!big_endian && !order.starts_with("II", 2)) throw Hopeless{"damaged: the TIFF has no byte order"};
    cursor_ = Cursor(bytes, big_endian);
    cursor_.skip(2);
    wide_ = cursor_.u16() == 43;  // other numbers count as 42, as in Pillow
    if (wide_) cursor_.skip(4);
    cursor_.seek(cursor_.number(wide_ ? 8 : 4));
    entries_ = cursor_.number(wide_ ? 8 : 2);
  }

  // Bytes of all values that a decoder keeps. Entries may share values, but a decoder copies them for each entry.
  int64_t weight() const {
    Cursor cursor = cursor_;
    double total = 0;
    for (uint64_t i = 0; i < entries_ && cursor.left() >= entry(); ++i) {
      cursor.skip(2);
      const uint64_t type = cursor.u16();
      const double count = static_cast<double>(cursor.number(wide_ ? 8 : 4));
      if (count * static_cast<double>(bytes_of(type)) <= static_cast<double>(bytes_.size)) {
        total += count * weight_of(type);
      }
      cursor.skip(wide_ ? 8 : 4);
    }
    return product(total, 1);
  }

  // Counts the directories from this one on; each holds an image.
  int64_t chain() const {
    std::unordered_set<uint64_t> seen;
    constexpr size_t enough = 1 << 16;
    Cursor cursor = cursor_;
    uint64_t entries = entries_;
    int64_t count = 0;
    try {
      for (;;) {
        ++count;
        cursor.skip(std::min<uint64_t>(entries, bytes_.size) * entry());
        const uint64_t next = cursor.number(wide_ ? 8 : 4);
        if (next == 0 || seen.size() == enough || !seen.insert(next).second) break;
        cursor.seek(next);
        entries = cursor.number(wide_ ? 8 : 2);
      }
    } catch (const OutOfBytes&) {
      // Counts the directories that are present.
    }
    return count;
  }

  // True if the directory ends inside the file. Its readable part is used in any case.
  bool whole() const { return cursor_.left() / entry() >= entries_; }

  // Returns no values if they lie beyond the end, since decoders ignore such a tag. Throws OutOfBytes if it is needed.
  Values find(Tag tag, bool needed = false) const {
    Cursor cursor = cursor_;
    const uint64_t inside = wide_ ? 8 : 4;
    for (uint64_t i = 0; i < entries_ && cursor.left() >= entry(); ++i) {
      const uint16_t found = cursor.u16();
      const int size = size_of(cursor.u16());
      const uint64_t count = cursor.number(wide_ ? 8 : 4);
      Cursor value = cursor;
      cursor.skip(inside);
      if (found != tag || size == 0 || count == 0) continue;
      const uint64_t length = std::min<uint64_t>(count, bytes_.size + 1) * static_cast<uint64_t>(size);
      const uint64_t at = length > inside ? value.number(static_cast<int>(inside)) : value.at();
      if (at <= bytes_.size && length <= bytes_.size - at) {
        value.seek(at);
        return Values(value, size, count);
      }
      if (needed) throw OutOfBytes{};
    }
    return Values();
  }

 private:
  size_t entry() const { return wide_ ? 20 : 12; }

  Bytes bytes_;
  Cursor cursor_;
  bool wide_ = false;
  uint64_t entries_ = 0;
};

int64_t orientation_in(const Directory& directory) {
  const Values values = directory.find(Orientation);
  const uint64_t value = values.count() == 1 ? values.at(0) : 1;
  return value >= 1 && value <= 8 ? static_cast<int64_t>(value) : 1;
}

[[noreturn]] void beyond(const char* what, uint64_t i) {
  throw Hopeless{"truncated: the TIFF's " + std::string(what) + " " + std::to_string(i) + " lies beyond the file's end"};
}

uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

// Common codings that Pillow's decoders know.
void check_compression(uint64_t compression) {
  constexpr uint64_t known[] = {1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34925, 50000, 50001};
  if (std::find(std::begin(known), std::end(known), compression) == std::end(known)) {
    throw Hopeless{"unsupported TIFF: compression " + std::to_string(compression)};
  }
}

// Passes over the pixels. Each JPEG in a strip or tile may have many.
int64_t scans_in(Bytes bytes, uint64_t pieces) {
  Cursor cursor(bytes);
  uint64_t scans = 0;
  try {
    for (;;) {
      cursor.skip_to(0xff);
      scans += cursor.u8() == 0xda;
    }
  } catch (const OutOfBytes&) {
  }
  return static_cast<int64_t>(std::max<uint64_t>(1, ceil_div(scans, std::max<uint64_t>(pieces, 1))));
}

// Decoders ignore wrong byte counts of uncompressed data, but not of compressed data.
void check_data(const Directory& directory, Bytes bytes, Header& header, uint64_t compression) {
  const uint64_t file = bytes.size;
  const Values strips = directory.find(StripOffsets), tiles = directory.find(TileOffsets);
  const bool tiled = strips.count() == 0;
  const Values& offsets = tiled ? tiles : strips;
  const Values counts = compression == 1 ? Values() : directory.find(tiled ? TileByteCounts : StripByteCounts);
  const uint64_t width = static_cast<uint64_t>(header.width), height = static_cast<uint64_t>(header.height);
  const uint64_t across = tiled ? directory.find(TileWidth).first(0) : width;
  const uint64_t down = std::min(directory.find(tiled ? TileLength : RowsPerStrip).first(height), height);
  const char* what = tiled ? "tile" : "strip";
  header.parts = static_cast<int64_t>(offsets.count());
  const double bits = static_cast<double>(header.bits) * static_cast<double>(header.channels) / 8;
  const double lines = static_cast<double>(tiled ? directory.find(TileLength).first(0) : down);
  header.buffer += product(static_cast<double>(across), lines, bits);
  constexpr uint64_t old_jpeg = 6, jpeg = 7;  // old JPEG has its own tags for the place of the data
  if (compression == old_jpeg || compression == jpeg) {
    header.scans = scans_in(bytes, offsets.count());
    if (header.scans > 1) header.buffer *= 3;
  }
  if (compression == old_jpeg) return;
  if (offsets.count() == 0) throw Hopeless{"damaged or truncated: the TIFF does not say where its pixels are"};
  if (compression != 1 && !directory.whole()) throw Hopeless{"truncated: the TIFF ends inside its directory"};
  if (across == 0 || down == 0) return;
  const bool chunky = directory.find(PlanarConfiguration).first(1) != 2;
  if (!chunky || offsets.count() != ceil_div(width, across) * ceil_div(height, down)) return;
  const uint64_t line = ceil_div(width * static_cast<uint64_t>(header.bits * header.channels), 8);
  for (uint64_t i = 0; i < offsets.count(); ++i) {
    const uint64_t at = offsets.at(i);
    if (at >= file) beyond(what, i);
    uint64_t needed = 0;
    if (compression != 1) {
      needed = i < counts.count() ? counts.at(i) : 0;
    } else if (!tiled) {
      needed = std::min(down, height - i * down) * line;
    }
    if (needed > file - at) beyond(what, i);
  }
}

}  // namespace

void read_exif(Bytes bytes, Header& header) {
  try {
    const Directory directory(bytes);
    header.orientation = orientation_in(directory);
    header.buffer += directory.weight();
  } catch (const OutOfBytes&) {
  } catch (const Hopeless&) {
  }
}

int64_t pictures_in_index(Bytes bytes) {
  try {
    const uint64_t count = Directory(bytes).find(NumberOfPictures).first(1);
    return static_cast<int64_t>(std::clamp<uint64_t>(count, 1, UINT32_MAX));
  } catch (const OutOfBytes&) {
  } catch (const Hopeless&) {
  }
  return 1;
}

void parse_tiff(Bytes bytes, Header& header) {
  const Directory directory(bytes);
  const uint64_t width = directory.find(ImageWidth).first(0), height = directory.find(ImageLength).first(0);
  constexpr uint64_t largest = INT64_MAX;
  header.width = static_cast<int64_t>(std::min(width, largest));
  header.height = static_cast<int64_t>(std::min(height, largest));
  check_size(header);
  header.orientation = orientation_in(directory);
  const uint64_t photometric = directory.find(Photometric).first(0), compression = directory.find(Compression).first(1);
  const Values extra = directory.find(ExtraSamples);
  const uint64_t samples = directory.find(SamplesPerPixel).first(1);
  const uint64_t bits = directory.find(BitsPerSample, samples > 1).first(1);
  if (samples < 1 || samples > 64 || bits < 1 || bits > 64) {
    throw Hopeless{"damaged: a TIFF of " + std::to_string(samples) + " samples of " + std::to_string(bits) + " bits"};
  }
  check_compression(compression);
  const uint64_t sample = directory.find(SampleFormat, samples > 1).first(1);
  header.kind = sample == 2 ? 1 : sample == 3 ? 2 : 0;
  header.frames = directory.chain();
  header.buffer = directory.weight();
  header.channels = static_cast<int64_t>(samples);
  header.bits = static_cast<int64_t>(bits);
  header.palette = photometric == 3;
  if (header.palette) directory.find(ColorMap, true);
  header.cmyk = photometric == 5;
  header.alpha = extra.count() ? extra.at(0) != 0 : photometric == 2 && samples == 4;
  check_data(directory, bytes, header, compression);
}

}  // namespace fastmim::reader
