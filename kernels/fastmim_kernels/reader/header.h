// The header check of image files, a pure function on bytes, also hostile bytes, which decodes no pixels. Pillow sets
// the standard: a file that Pillow decodes without an error is never rejected.
#pragma once

#include <cstdint>
#include <string>

#include "bytes.h"

namespace fastmim::reader {

enum Format : int64_t { unknown, jpeg, png, webp, bmp, tiff, gif, avif };

// Python (ctypes) reads this structure field by field.
struct Header {
  int64_t format = unknown;
  int64_t width = 0, height = 0;  // of the stored pixels, before orientation
  int64_t orientation = 1;        // EXIF, 1..8
  int64_t channels = 0, bits = 8;
  int64_t palette = 0, alpha = 0, cmyk = 0, progressive = 0, irregular = 0;
  int64_t kind = 0;      // type of samples: 0 unsigned, 1 signed, 2 floating point
  int64_t frames = 1;    // pages or frames in the file
  int64_t scans = 1;     // passes over the pixels
  int64_t parts = 0;     // pieces that a decoder handles one by one: segments, chunks, strips, tiles, fill bytes
  int64_t metadata = 0;  // bytes of the segments before a JPEG's pixels
  int64_t buffer = 0;    // bytes that a decoder keeps beside the pixels and the file
};

// Upper limit of reported counts and sizes. The sum of two does not overflow.
constexpr int64_t most = int64_t{1} << 61;
inline int64_t product(double a, double b, double c = 1) {
  const double all = a * b * c;
  return all < static_cast<double>(most) ? static_cast<int64_t>(all) : most;
}

// Thrown if a file is hopeless. The text is for a person.
struct Hopeless {
  std::string why;
};

// Fills `header`, and returns the reason why the file is hopeless, or nothing. With `pixels`, also checks the pixels of
// a JPEG.
std::string parse(Bytes bytes, Header& header, bool pixels = false);

// Throws Hopeless if the pixels of a JPEG are incomplete, as far as this shows without decoding. The check takes about
// ten nanoseconds per byte. Decoders of the other formats report incomplete pixels themselves.
void check_pixels(Bytes bytes);

// Throws Hopeless for images without pixels and for sides that no decoder supports. Before this check, width and height
// may be any numbers from the file. Limits on memory and time belong to the caller, who knows the settings.
void check_size(const Header& header);

// One parser per format. A parser throws Hopeless, or OutOfBytes if the file ends inside its header.
void parse_jpeg(Bytes bytes, Header& header);
void parse_png(Bytes bytes, Header& header);
void parse_webp(Bytes bytes, Header& header);
void parse_bmp(Bytes bytes, Header& header);
void parse_tiff(Bytes bytes, Header& header);
void parse_gif(Bytes bytes, Header& header);
void parse_avif(Bytes bytes, Header& header);

// Reads the orientation from a TIFF structure such as EXIF, and counts the memory of its values.
void read_exif(Bytes tiff, Header& header);

// Number of images in the multi-picture index of a JPEG, which is a TIFF structure; 1 if the index is malformed.
int64_t pictures_in_index(Bytes tiff);

}  // namespace fastmim::reader
