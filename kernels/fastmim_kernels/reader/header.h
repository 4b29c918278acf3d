// What the first look at an image file tells, without decoding it. A pure function on bytes; it parses hostile ones.
// The yardstick of what to reject is Pillow: a file that Pillow decodes without an error is never rejected.
#pragma once

#include <cstdint>
#include <string>

#include "bytes.h"

namespace fastmim::reader {

enum Format : int64_t { unknown, jpeg, png, webp, bmp, tiff, gif };

// Also read by Python (ctypes), field by field.
struct Header {
  int64_t format = unknown;
  int64_t width = 0, height = 0;  // of the stored pixels, before orientation
  int64_t orientation = 1;        // EXIF, 1..8
  int64_t channels = 0, bits = 8;
  int64_t palette = 0, alpha = 0, cmyk = 0, progressive = 0, irregular = 0;
};

// Thrown when a file is hopeless; the text is for a person.
struct Hopeless {
  std::string why;
};

// Fills `header`; returns why the file is hopeless, or nothing.
std::string parse(Bytes bytes, Header& header);

// Throws Hopeless for no pixels and for absurdly many. Before it, width and height are any numbers from the file.
void check_size(const Header& header);

// One per format: they throw Hopeless, or OutOfBytes where the file ends inside its header.
void parse_jpeg(Bytes bytes, Header& header);
void parse_png(Bytes bytes, Header& header);
void parse_webp(Bytes bytes, Header& header);
void parse_bmp(Bytes bytes, Header& header);
void parse_tiff(Bytes bytes, Header& header);
void parse_gif(Bytes bytes, Header& header);

// The orientation in a TIFF structure, as EXIF is; 1 when there is none or it is malformed.
int64_t exif_orientation(Bytes tiff);

}  // namespace fastmim::reader
