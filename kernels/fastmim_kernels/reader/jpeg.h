// The parts of a JPEG that the header check and the count of its blocks share.
#pragma once

#include "bytes.h"

namespace fastmim::reader {

struct Huffman {
  bool defined = false;
  uint8_t counts[17] = {};  // codes of each length, 1..16
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

// Whether the entropy-coded bytes, which run to the end of the file, hold all blocks of a sequential Huffman scan of
// all components: such a file lacks only its end marker. True also where only decoding could tell.
bool scan_is_whole(Bytes scan, const Jpeg& jpeg);

}  // namespace fastmim::reader
