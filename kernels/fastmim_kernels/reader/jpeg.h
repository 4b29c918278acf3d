// Parts of a JPEG that the header check and the pixel check share.
#pragma once

#include <string>

#include "header.h"

namespace fastmim::reader {

struct Huffman {
  bool defined = false;
  uint8_t counts[17] = {};  // number of codes of each length, 1..16
  uint8_t symbols[256] = {};
};

struct Component {
  uint8_t id, h, v, quantization;  // h, v: sampling factors
  uint8_t dc = 0, ac = 0;          // Huffman tables in the current scan
};

struct Jpeg {
  uint8_t frame = 0;  // the SOF marker's second byte
  int components = 0;
  int64_t width = 0, height = 0;
  Component component[4];
  bool quantization[4] = {};
  Huffman dc[4], ac[4];
  uint32_t restart = 0;  // MCUs between restart markers, 0 = none
};

// The single scan of a sequential JPEG.
struct Scan {
  Jpeg jpeg;
  size_t begin = 0;  // start of the entropy-coded bytes; 0 = the file has other scans
};

// Like `parse_jpeg`, and fills `scan` if the pixels lie in one scan.
void parse_jpeg_scan(Bytes bytes, Header& header, Scan& scan);

}  // namespace fastmim::reader
