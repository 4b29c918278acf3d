// JPEG (ITU-T T.81): walks the marker segments, and no further than needed into the entropy-coded data.
#include "jpeg.h"

#include <algorithm>

#include "header.h"

namespace fastmim::reader {
namespace {

enum Marker : uint8_t {
  SOF0 = 0xc0, SOF1 = 0xc1, SOF2 = 0xc2, SOF3 = 0xc3, SOF9 = 0xc9, SOF10 = 0xca,
  DHT = 0xc4, DAC = 0xcc, RST0 = 0xd0, RST7 = 0xd7, SOI = 0xd8, EOI = 0xd9, SOS = 0xda, DQT = 0xdb, DNL = 0xdc,
  DRI = 0xdd, APP0 = 0xe0, APP1 = 0xe1, APP15 = 0xef, COM = 0xfe, TEM = 0x01,
};

bool restarts(uint8_t marker) { return marker >= RST0 && marker <= RST7; }
bool progressive(const Jpeg& jpeg) { return jpeg.frame == SOF2 || jpeg.frame == SOF10; }
bool arithmetic(const Jpeg& jpeg) { return jpeg.frame == SOF9 || jpeg.frame == SOF10; }

// Passes entropy-coded data and garbage, as decoders do.
uint8_t next_marker(Cursor& cursor) {
  for (;;) {
    cursor.skip_to(0xff);
    uint8_t marker = 0xff;
    while (marker == 0xff) marker = cursor.u8();
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
  // Decoders know the standard's two tables of each kind (motion JPEG omits them), but not in progressive scans.
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

// Returns whether the scan has all components.
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

// A sequential scan of all components: decoders need nothing after it, and any marker ends it.
void check_only_scan(Cursor& cursor, Bytes bytes, const Jpeg& jpeg, Header& header) {
  const size_t begin = cursor.at();
  // Of what follows its last row one decoder reads all, up to the end marker, and fails where another never looks.
  header.irregular = true;
  try {
    for (;;) {
      const uint8_t marker = next_marker(cursor);
      if (restarts(marker)) continue;
      header.irregular = marker != EOI;
      return;
    }
  } catch (const OutOfBytes&) {
    const bool huffman = jpeg.frame == SOF0 || jpeg.frame == SOF1;
    if (huffman && !scan_is_whole({bytes.data + begin, bytes.size - begin}, jpeg)) {
      throw Hopeless{"truncated: the JPEG has no end marker"};
    }
  }
}

}  // namespace

void parse_jpeg(Bytes bytes, Header& header) {
  Cursor cursor(bytes);
  cursor.skip(2);
  Jpeg jpeg;
  bool scanned = false, exif = false;
  try {
    for (;;) {
      const uint8_t marker = next_marker(cursor);
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
          scanned = true;
          const bool all = read_scan(Cursor(segment), jpeg);
          if (all && !progressive(jpeg)) return check_only_scan(cursor, bytes, jpeg, header);
        }
      } catch (const OutOfBytes&) {
        throw Hopeless{"damaged: a JPEG segment is shorter than its content"};
      }
      if (marker == APP1 && !scanned && !exif && segment.starts_with("Exif\0\0", 6)) {
        exif = true;
        header.orientation = exif_orientation({segment.data + 6, segment.size - 6});
      }
    }
  } catch (const OutOfBytes&) {
    if (scanned) throw Hopeless{"truncated: the JPEG has no end marker"};
    throw;
  }
}

}  // namespace fastmim::reader
