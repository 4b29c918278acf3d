// AVIF (ISO/IEC 23000-22): reads the boxes that describe the first image, and the sequence headers of its AV1 data,
// from which a decoder takes the size of its memory.
#include <algorithm>
#include <functional>
#include <map>
#include <vector>

#include "header.h"

namespace fastmim::reader {
namespace {

bool named(Bytes kind, const char* name) { return kind.starts_with(name, 4); }

// Calls `visit` with the type and content of each box.
void walk(Cursor cursor, const std::function<void(Bytes, Cursor)>& visit) {
  while (cursor.left() >= 8) {
    uint64_t size = cursor.u32(), head = 8;
    const Bytes type = cursor.take(4);
    if (size == 1) {
      size = cursor.number(8);
      head = 16;
    }
    if (size == 0) size = cursor.left() + head;
    if (size < head) throw Hopeless{"damaged: an AVIF box is shorter than its header"};
    visit(type, Cursor(cursor.take(size - head)));
  }
}

class Bits {
 public:
  explicit Bits(Cursor cursor) : cursor_(cursor) {}
  uint32_t take(int n) {
    uint32_t value = 0;
    for (; n > 0; --n) {
      if (left_ == 0) {
        byte_ = cursor_.u8();
        left_ = 8;
      }
      value = value << 1 | (byte_ >> --left_ & 1u);
    }
    return value;
  }

 private:
  Cursor cursor_;
  uint8_t byte_ = 0;
  int left_ = 0;
};

// Returns the pixels of the largest frame that an AV1 sequence header allows (AV1 specification, section 5.5.1).
double largest_frame(Cursor content) {
  Bits bits(content);
  bits.take(4);  // profile, still picture
  if (bits.take(1)) {
    bits.take(5);
  } else {
    uint32_t delay_bits = 0;
    if (bits.take(1)) {  // timing
      bits.take(32);
      bits.take(32);
      if (bits.take(1)) {  // a number with as many bits as there are zeros before it
        int zeros = 0;
        while (zeros < 32 && !bits.take(1)) ++zeros;
        bits.take(std::min(zeros, 31));
      }
      if (bits.take(1)) {  // decoder model
        delay_bits = bits.take(5) + 1;
        bits.take(32);
        bits.take(10);
      }
    }
    const bool display_delay = bits.take(1);
    for (uint32_t points = bits.take(5) + 1; points > 0; --points) {
      bits.take(12);
      if (bits.take(5) > 7) bits.take(1);
      if (delay_bits && bits.take(1)) {
        bits.take(static_cast<int>(delay_bits));
        bits.take(static_cast<int>(delay_bits));
        bits.take(1);
      }
      if (display_delay && bits.take(1)) bits.take(4);
    }
  }
  const int width_bits = static_cast<int>(bits.take(4)) + 1, height_bits = static_cast<int>(bits.take(4)) + 1;
  const double width = bits.take(width_bits) + 1.0;
  return width * (bits.take(height_bits) + 1.0);
}

// Returns the largest frame of all sequence headers in AV1 data, in pixels; 0 if there is no header.
double largest_frame_in(Cursor data) {
  double largest = 0;
  while (data.left()) {
    const uint8_t head = data.u8();
    if (head & 4) data.skip(1);
    uint64_t size = 0;
    if (head & 2) {
      for (int shift = 0; shift < 56; shift += 7) {
        const uint8_t byte = data.u8();
        size |= static_cast<uint64_t>(byte & 0x7f) << shift;
        if (!(byte & 0x80)) break;
      }
    } else {
      size = data.left();
    }
    const Cursor content(data.take(size));
    constexpr int sequence_header = 1;
    if ((head >> 3 & 15) == sequence_header) largest = std::max(largest, largest_frame(content));
  }
  return largest;
}

struct Item {
  bool av1 = false;
  std::vector<uint16_t> properties;  // numbers from 1 on
  Bytes data{nullptr, 0};
};

class Avif {
 public:
  explicit Avif(Bytes bytes) : bytes_(bytes) {}

  void parse(Header& header) {
    walk(Cursor(bytes_), [&](Bytes type, Cursor content) {
      if (named(type, "meta")) {
        content.skip(4);
        walk(content, [&](Bytes kind, Cursor inside) { read_meta(kind, inside); });
      }
      if (named(type, "moov")) read_movie(content, 0, header);
    });
    for (const auto& [id, item] : items_) {
      if (item.av1 && measure(item.data) == 0) {
        throw Hopeless{"damaged: an image of the AVIF has no data, or not in one piece"};
      }
    }
    if (largest_ == 0) throw Hopeless{"damaged: the AVIF has no image data"};
    read_properties(header);
    // The decoder cuts or scales frames whose size differs from the image.
    constexpr double bytes_a_pixel = 12;
    const double pixels = static_cast<double>(header.width) * static_cast<double>(header.height);
    if (largest_ > pixels) header.buffer = product(largest_, bytes_a_pixel);
  }

 private:
  // A file can name any number of items, and each takes memory.
  Item& item(uint64_t id) {
    constexpr size_t most_items = 1 << 16;
    if (items_.size() == most_items && !items_.contains(id)) throw Hopeless{"damaged: the AVIF has too many items"};
    return items_[id];
  }

  // The largest frame of all images. Equal images may share data, but not so often that reading them takes long.
  double measure(Bytes data) {
    constexpr uint64_t most_shares = 8;
    measured_ += data.size;
    if (measured_ > most_shares * bytes_.size) throw Hopeless{"damaged: the AVIF's images share their data"};
    const double largest = largest_frame_in(Cursor(data));
    largest_ = std::max(largest_, largest);
    return largest;
  }

  void read_meta(Bytes type, Cursor content) {
    if (named(type, "iprp")) {
      walk(content, [&](Bytes kind, Cursor inside) {
        if (named(kind, "ipco")) {
          walk(inside, [&](Bytes property, Cursor value) {
            if (properties_.size() < INT16_MAX) properties_.emplace_back(property, value);
          });
        }
        if (named(kind, "ipma")) read_associations(inside);
      });
      return;
    }
    if (!named(type, "pitm") && !named(type, "iinf") && !named(type, "iloc")) return;
    const uint8_t version = content.u8();
    content.skip(3);
    if (named(type, "pitm")) primary_ = content.number(version ? 4 : 2);
    if (named(type, "iloc")) read_locations(content, version);
    if (named(type, "iinf")) {
      content.skip(version ? 4 : 2);
      walk(content, [&](Bytes, Cursor entry) {
        const uint8_t entry_version = entry.u8();
        entry.skip(3);
        const uint64_t id = entry.number(entry_version > 2 ? 4 : 2);
        entry.skip(2);
        item(id).av1 = named(entry.take(4), "av01");
      });
    }
  }

  void read_associations(Cursor content) {
    const uint8_t version = content.u8();
    content.skip(2);
    const bool wide = content.u8() & 1;
    for (uint32_t entries = content.u32(); entries > 0; --entries) {
      std::vector<uint16_t>& properties = item(content.number(version ? 4 : 2)).properties;
      for (int count = content.u8(); count > 0; --count) {
        properties.push_back(static_cast<uint16_t>(content.number(wide ? 2 : 1) & (wide ? 0x7fff : 0x7f)));
      }
    }
  }

  void read_locations(Cursor content, uint8_t version) {
    const uint16_t sizes = content.u16();
    const int offset_size = sizes >> 12, length_size = sizes >> 8 & 15, base_size = sizes >> 4 & 15;
    const int index_size = version ? sizes & 15 : 0;
    for (uint64_t count = content.number(version < 2 ? 2 : 4); count > 0; --count) {
      Bytes& data = item(content.number(version < 2 ? 2 : 4)).data;
      const int method = version ? content.u16() & 15 : 0;
      content.skip(2);
      const uint64_t base = content.number(base_size);
      const uint16_t extents = content.u16();
      Cursor extent = content;
      content.skip(static_cast<uint64_t>(extents) * static_cast<uint64_t>(index_size + offset_size + length_size));
      data = {nullptr, 0};
      if (method != 0 || extents != 1) continue;  // an image has to lie in this file, in one piece
      extent.skip(static_cast<uint64_t>(index_size));
      Cursor file(bytes_);
      file.seek(base + extent.number(offset_size));
      const uint64_t length = extent.number(length_size);
      data = file.take(length ? length : file.left());
    }
  }

  // The tracks of a sequence give its size, the number of frames, and the data of the first frame.
  void read_movie(Cursor content, size_t depth, Header& header) {
    constexpr const char* folders[] = {"trak", "mdia", "minf", "stbl"};
    walk(content, [&](Bytes type, Cursor inside) {
      if (depth == std::size(folders)) return read_samples(type, inside, header);
      if (named(type, folders[depth])) read_movie(inside, depth + 1, header);
    });
    if (depth < std::size(folders) || !size_) return;
    Cursor file(bytes_);
    file.seek(offset_);
    measure(file.take(size_));
    offset_ = size_ = 0;
  }

  void read_samples(Bytes type, Cursor content, Header& header) {
    if (named(type, "stsz")) {
      content.skip(4);
      size_ = content.u32();
      header.frames = std::max<int64_t>(header.frames, content.u32());
      if (!size_) size_ = content.u32();
    }
    if (named(type, "stco") || named(type, "co64")) {
      content.skip(8);
      offset_ = content.number(named(type, "stco") ? 4 : 8);
    }
  }

  void read_properties(Header& header) {
    header.channels = 3;
    int turns = 0, mirror = -1;
    for (const size_t number : item(primary_).properties) {
      if (number < 1 || number > properties_.size()) continue;
      auto [type, value] = properties_[number - 1];
      if (named(type, "ispe")) {
        value.skip(4);
        header.width = value.u32();
        header.height = value.u32();
      }
      if (named(type, "av1C")) {
        value.skip(2);
        const uint8_t flags = value.u8();
        header.bits = flags & 0x20 ? 12 : flags & 0x40 ? 10 : 8;
        if (flags & 0x10) header.channels = 1;
      }
      if (named(type, "irot")) turns = value.u8() & 3;
      if (named(type, "imir")) mirror = value.u8() & 1;
    }
    for (const auto& [type, value] : properties_) header.alpha |= named(type, "auxC");
    header.channels += header.alpha;
    // The order in the file: the picture is turned anticlockwise, then mirrored along an axis.
    constexpr int orientations[4][3] = {{1, 4, 2}, {8, 5, 7}, {3, 2, 4}, {6, 7, 5}};
    header.orientation = orientations[turns][mirror + 1];
  }

  Bytes bytes_;
  std::map<uint64_t, Item> items_;
  std::vector<std::pair<Bytes, Cursor>> properties_;
  uint64_t primary_ = 0, offset_ = 0, size_ = 0, measured_ = 0;
  double largest_ = 0;
};

}  // namespace

void parse_avif(Bytes bytes, Header& header) { Avif(bytes).parse(header); }

}  // namespace fastmim::reader
