// What the first look at an image file tells, without decoding it. A pure function on bytes; it parses hostile ones.
// The yardstick of what to reject is Pillow: a file that Pillow decodes without an error is never rejected.
#pragma once

#include <cstdint>
#include <string>

#include "bytes.h"

namespace fastmim::reader {

enum Format : int64_t { unknown, jpeg, png, webp, bmp, tiff, gif, avif };

// Also read by Python (ctypes), field by field.
struct Header {
  int64_t format = unknown;
  int64_t width = 0, height = 0;  // of the stored pixels, before orientation
  int64_t orientation = 1;        // EXIF, 1..8
  int64_t channels = 0, bits = 8;
  int64_t palette = 0, alpha = 0, cmyk = 0, progressive = 0, irregular = 0;
  int64_t kind = 0;      // of samples: 0 unsigned, 1 signed, 2 floating point
  int64_t frames = 1;    // pages or frames in the file
  int64_t scans = 1;     // passes over the pixels
  int64_t parts = 0;     // pieces that a decoder handles one by one: segments, chunks, strips, tiles, fill bytes
  int64_t metadata = 0;  // bytes of the segments before a JPEG's pixels
  int64_t buffer = 0;    // bytes that a decoder keeps beside the pixels and the file
};

// The most that a count or a number of bytes is told as; sums of two of them do not overflow.
constexpr int64_t most = int64_t{1} << 61;
inline int64_t product(double a, double b, double c = 1) {
  const double all = a * b * c;
  return all < static_cast<double>(most) ? static_cast<int64_t>(all) : most;
}

// Thrown when a file is hopeless; the text is for a person.
struct Hopeless {
  std::string why;
};

// Fills `header`; returns why the file is hopeless, or nothing.
std::string parse(Bytes bytes, Header& header);

// Throws Hopeless for no pixels and for sides that no decoder has. Before it, width and height are any numbers from the
// file. Limits on the decoder's memory and time are for those who know the settings.
void check_size(const Header& header);

// One per format: they throw Hopeless, or OutOfBytes where the file ends inside its header.
void parse_jpeg(Bytes bytes, Header& header);
void parse_png(Bytes bytes, Header& header);
void parse_webp(Bytes bytes, Header& header);
void parse_bmp(Bytes bytes, Header& header);
void parse_tiff(Bytes bytes, Header& header);
void parse_gif(Bytes bytes, Header& header);
void parse_avif(Bytes bytes, Header& header);

// Takes the orientation from a TIFF structure, as EXIF is, and counts the memory that its values take.
void read_exif(Bytes tiff, Header& header);

// The number of images in a JPEG's multi-picture index, which is a TIFF structure; 1 when it is malformed.
int64_t pictures_in_index(Bytes tiff);

}  // namespace fastmim::reader
