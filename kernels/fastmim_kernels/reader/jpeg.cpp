// JPEG (ITU-T T.81): walks the marker segments, and the entropy-coded data no further than needed.
#include "jpeg.h"

#include <algorithm>

namespace fastmim::reader {
namespace {

enum Marker : uint8_t {
  SOF0 = 0xc0, SOF1 = 0xc1, SOF2 = 0xc2, SOF3 = 0xc3, SOF9 = 0xc9, SOF10 = 0xca,
  DHT = 0xc4, DAC = 0xcc, RST0 = 0xd0, RST7 = 0xd7, SOI = 0xd8, EOI = 0xd9, SOS = 0xda, DQT = 0xdb, DNL = 0xdc,
  DRI = 0xdd, APP0 = 0xe0, APP1 = 0xe1, APP2 = 0xe2, APP13 = 0xed, APP15 = 0xef, COM = 0xfe, TEM = 0x01,
};

bool restarts(uint8_t marker) { return marker >= RST0 && marker <= RST7; }
bool progressive(const Jpeg& jpeg) { return jpeg.frame == SOF2 || jpeg.frame == SOF10; }
bool arithmetic(const Jpeg& jpeg) { return jpeg.frame == SOF9 || jpeg.frame == SOF10; }

// Skips entropy-coded data and garbage, as decoders do. Counts the fill bytes.
uint8_t next_marker(Cursor& cursor, int64_t* fills = nullptr) {
  for (;;) {
    cursor.skip_to(0xff);
    uint8_t marker = cursor.u8();
    for (; marker == 0xff; marker = cursor.u8()) {
      if (fills) ++*fills;
    }
    if (marker != 0) return marker;
  }
}

void read_quantization(Cursor segment, Jpeg& jpeg) {
  while (segment.left()) {
    const uint8_t what = segment.u8();
    const int number = what & 15;
    if (number > 3) throw Hopeless{"damaged: a JPEG quantization table has the number " + std::to_string(number)};
    segment.skip(what >> 4 ? 128 : 64);
    jpeg.quantization[number] = true;
  }
}

void read_huffman(Cursor segment, Jpeg& jpeg) {
  while (segment.left()) {
    const uint8_t what = segment.u8();
    if ((what & 0xef) > 3) throw Hopeless{"damaged: a JPEG Huffman table has the number " + std::to_string(what)};
    Huffman& table = (what & 16 ? jpeg.ac : jpeg.dc)[what & 15];
    table = {};
    size_t total = 0;
    for (int length = 1; length <= 16; ++length) total += table.counts[length] = segment.u8();
    if (total > 256) throw Hopeless{"damaged: a JPEG Huffman table has " + std::to_string(total) + " codes"};
    const Bytes symbols = segment.take(total);
    std::copy(symbols.data, symbols.data + total, table.symbols);
    table.defined = true;
  }
}

void read_frame(uint8_t marker, Cursor segment, Jpeg& jpeg, Header& header) {
  if (jpeg.frame) throw Hopeless{"damaged: the JPEG has two frame headers"};
  jpeg.frame = marker;
  const int precision = segment.u8();
  jpeg.height = segment.u16();
  jpeg.width = segment.u16();
  jpeg.components = segment.u8();
  if (precision != 8) throw Hopeless{"unsupported JPEG: " + std::to_string(precision) + " bits per sample"};
  if (jpeg.components != 1 && jpeg.components != 3 && jpeg.components != 4) {
    throw Hopeless{"unsupported JPEG: " + std::to_string(jpeg.components) + " components"};
  }
  if (segment.left() != 3u * static_cast<unsigned>(jpeg.components)) {
    throw Hopeless{"damaged: the JPEG frame header has a wrong length"};
  }
  for (int i = 0; i < jpeg.components; ++i) {
    Component& c = jpeg.component[i];
    c.id = segment.u8();
    const uint8_t sampling = segment.u8();
    c.h = sampling >> 4;
    c.v = sampling & 15;
    c.quantization = segment.u8();
    if (c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4) {
      throw Hopeless{"damaged: JPEG sampling factors " + std::to_string(c.h) + " x " + std::to_string(c.v)};
    }
  }
  header.width = jpeg.width;
  header.height = jpeg.height;
  header.channels = jpeg.components;
  header.cmyk = jpeg.components == 4;
  header.progressive = progressive(jpeg);
  check_size(header);
}

void check_huffman(const Huffman* tables, int number, const char* kind, bool dc, bool standard) {
  // Motion JPEG omits tables; decoders then use the two standard tables of each kind, except in progressive scans.
  if (number > 3 || (!tables[number].defined && !(standard && number < 2))) {
    throw Hopeless{"damaged: a JPEG scan uses the " + std::string(kind) + " Huffman table " + std::to_string(number) +
                   ", which the file lacks"};
  }
  const Huffman& table = tables[number];
  unsigned code = 0, index = 0;
  bool good = true;
  for (int length = 1; length <= 16; ++length) {
    code = (code << 1) + table.counts[length];
    good = good && (table.counts[length] == 0 || code < 1u << length);  // the code of all ones is reserved
    for (int i = 0; i < table.counts[length]; ++i) good = good && !(dc && table.symbols[index + i] > 15);
    index += table.counts[length];
  }
  if (!good) throw Hopeless{"damaged: a JPEG Huffman table is inconsistent"};
}

// Returns true if the scan has all components.
bool read_scan(Cursor segment, Jpeg& jpeg) {
  if (!jpeg.frame) throw Hopeless{"damaged: the JPEG has a scan before its frame header"};
  const int count = segment.u8();
  if (count < 1 || count > 4 || segment.left() != 2u * static_cast<unsigned>(count) + 3) {
    throw Hopeless{"damaged: a JPEG scan header has a wrong length"};
  }
  Component* in_scan[4];
  for (int i = 0; i < count; ++i) {
    const uint8_t id = segment.u8(), tables = segment.u8();
    Component* end = jpeg.component + jpeg.components;
    Component* c = std::find_if(jpeg.component, end, [&](const Component& x) { return x.id == id; });
    if (c == end) throw Hopeless{"damaged: a JPEG scan names an unknown component, " + std::to_string(id)};
    c->dc = tables >> 4;
    c->ac = tables & 15;
    in_scan[i] = c;
  }
  const uint8_t first = segment.u8(), last = segment.u8(), bits = segment.u8();
  const bool refines = bits >> 4;
  if (progressive(jpeg) && (first > last || last > 63 || (first == 0) != (last == 0) || (first && count > 1))) {
    throw Hopeless{"damaged: a progressive JPEG scan has the coefficients " + std::to_string(first) + " to " +
                   std::to_string(last)};
  }
  for (int i = 0; i < count && jpeg.frame != SOF3; ++i) {
    const Component& c = *in_scan[i];
    if (c.quantization > 3 || !jpeg.quantization[c.quantization]) {
      throw Hopeless{"damaged: the JPEG lacks the quantization table " + std::to_string(c.quantization)};
    }
    if (arithmetic(jpeg)) continue;
    const bool sequential = !progressive(jpeg);
    if (sequential || (first == 0 && !refines)) check_huffman(jpeg.dc, c.dc, "DC", true, sequential);
    if (sequential || first > 0) check_huffman(jpeg.ac, c.ac, "AC", false, sequential);
  }
  return count == jpeg.components;
}

// A sequential scan of all components. Any marker ends the scan, but only an end marker proves that it is whole.
void check_only_scan(Cursor& cursor, Header& header) {
  uint8_t marker = RST0;
  while (restarts(marker)) marker = next_marker(cursor);
  // After the last row, one decoder reads on to the end marker and may fail; another decoder stops.
  header.irregular = marker != EOI;
  while (marker != EOI) marker = next_marker(cursor);
}

// True for an end marker in the middle of the pixels: pixel data follow, up to the real end marker. After the real end
// marker, anything may follow: zeros, garbage, further pictures.
void check_end(Cursor cursor) {
  const Bytes rest = cursor.take(cursor.left());
  constexpr size_t few = 16;
  if (rest.size < few || rest.data[rest.size - 2] != 0xff || rest.data[rest.size - 1] != EOI) return;
  if (std::all_of(rest.data, rest.data + rest.size - 2, [&](uint8_t c) { return c == rest.data[0]; })) return;
  Cursor tail(rest);
  const uint8_t marker = next_marker(tail);
  if (restarts(marker) || marker == DHT || marker == SOS || marker == EOI) {
    throw Hopeless{"damaged: the JPEG has an end marker in the middle of its image data"};
  }
}

// Bytes of all coefficients, which a decoder keeps until it has read the last of several scans.
int64_t coefficients(const Jpeg& jpeg) {
  double h = 1, v = 1, blocks = 0;
  for (int i = 0; i < jpeg.components; ++i) {
    h = std::max<double>(h, jpeg.component[i].h);
    v = std::max<double>(v, jpeg.component[i].v);
  }
  for (int i = 0; i < jpeg.components; ++i) blocks += jpeg.component[i].h * jpeg.component[i].v / (h * v);
  return product(static_cast<double>(jpeg.width), static_cast<double>(jpeg.height), 2 * blocks);
}

void parse_segments(Cursor& cursor, Header& header, Scan& scan) {
  constexpr int64_t most_scans = 1 << 16;  // more than any limit on time allows
  Jpeg& jpeg = scan.jpeg;
  bool scanned = false, last = false;
  std::string exif;  // decoders join the segments
  header.scans = 0;
  for (;;) {
    const uint8_t marker = next_marker(cursor, scanned ? nullptr : &header.parts);
    header.irregular |= scanned && (marker == TEM || (marker == DAC && !arithmetic(jpeg)));
    if (restarts(marker) || marker == TEM) continue;
    if (marker == EOI && scanned) return;
    if (marker == EOI) throw Hopeless{"damaged: the JPEG ends before its image data"};
    if (marker == SOI) throw Hopeless{"damaged: the JPEG has two start markers"};
    const bool frame = marker >= SOF0 && marker <= 0xcf && marker != DHT && marker != DAC;
    const bool supported = marker <= SOF3 || marker == SOF9 || marker == SOF10;
    const bool known = marker == DHT || marker == DAC || (marker >= SOS && marker <= DRI) ||
                       (marker >= APP0 && marker <= APP15) || marker == COM;
    if (frame ? !supported : !known) {
      throw Hopeless{"unsupported JPEG: marker " + std::to_string(marker) + (frame ? ", an unusual coding" : "")};
    }
    const int length = cursor.u16();
    const Bytes segment = cursor.take(static_cast<uint64_t>(std::max(length - 2, 0)));
    try {
      if (frame) read_frame(marker, Cursor(segment), jpeg, header);
      if (marker == DQT) read_quantization(Cursor(segment), jpeg);
      if (marker == DHT) read_huffman(Cursor(segment), jpeg);
      if (marker == DRI) jpeg.restart = Cursor(segment).u16();
      if (marker == SOS) {
        if (!scanned) read_exif({reinterpret_cast<const uint8_t*>(exif.data()), exif.size()}, header);
        scanned = true;
        const bool all = read_scan(Cursor(segment), jpeg);
        header.scans = std::min(header.scans + 1, most_scans);
        if (progressive(jpeg) || !all) header.buffer = std::max(header.buffer, coefficients(jpeg));
        last = all && !progressive(jpeg);
        if (header.scans == most_scans) throw Hopeless{"damaged: the JPEG has more than 65535 scans"};
      }
    } catch (const OutOfBytes&) {
      throw Hopeless{"damaged: a JPEG segment is shorter than its content"};
    }
    if (last) {
      if (!arithmetic(jpeg) && jpeg.frame != SOF3) scan.begin = cursor.at();
      return check_only_scan(cursor, header);
    }
    if (scanned) continue;
    ++header.parts;
    header.metadata += static_cast<int64_t>(segment.size);
    if (marker == APP1 && segment.starts_with("Exif\0\0", 6)) {
      exif.append(reinterpret_cast<const char*>(segment.data) + 6, segment.size - 6);
    }
    if (marker == APP2 && segment.starts_with("MPF\0", 4)) {
      header.frames = pictures_in_index({segment.data + 4, segment.size - 4});
    }
    if (marker == APP13) header.parts += static_cast<int64_t>(segment.size / 12);  // Photoshop's resources
  }
}

}  // namespace

void parse_jpeg(Bytes bytes, Header& header) {
  Scan scan;
  parse_jpeg_scan(bytes, header, scan);
}

void parse_jpeg_scan(Bytes bytes, Header& header, Scan& scan) {
  Cursor cursor(bytes);
  cursor.skip(2);
  try {
    parse_segments(cursor, header, scan);
  } catch (const OutOfBytes&) {
    if (header.scans) throw Hopeless{"truncated: the JPEG has no end marker"};
    throw;
  }
  check_end(cursor);
}

}  // namespace fastmim::reader
