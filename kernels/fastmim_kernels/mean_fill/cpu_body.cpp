#include "cpu_body.h"

#include "../unshuffle_backward/cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Sums n lines of bytes.
void sum_bytes(const uint8_t* in, int64_t width, int64_t n, float* sum, uint16_t* part) {
  memset(sum, 0, width * sizeof(float));
  for (int64_t done = 0; done < n; done += 256) {  // 257 bytes fit into 16 bits
    const int64_t end = done + 256 < n ? done + 256 : n;
    memset(part, 0, width * sizeof(uint16_t));
    for (int64_t y = done; y < end; ++y) {
      const uint8_t* line = in + y * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) part[i] = static_cast<uint16_t>(part[i] + line[i]);
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) sum[i] += static_cast<float>(static_cast<int32_t>(part[i]));
  }
}

// Writes a line that repeats the value of hidden pixels in an image. scratch: 10 W C floats.
void fill_line(const MeanFill& a, int64_t image, void* fill, int64_t* lines, float* scratch) {
  const int64_t line = a.width * a.channels, first = image * a.height;
  float *sum = scratch, *rest = scratch + line;
  if (a.image_type == Type::u8) {
    const auto* in = static_cast<const uint8_t*>(a.images) + first * line;
    sum_bytes(in, line, a.height, sum, reinterpret_cast<uint16_t*>(rest));
  } else {
    for (int64_t y = 0; y < a.height; ++y) lines[y] = first + y;
    sum_rows(a.image_type, a.images, line, lines, a.height, sum, rest);
  }
  for (int64_t c = 0; c < a.channels; ++c) {
    double total = 0;
    for (int64_t i = c; i < line; i += a.channels) total += sum[i];
    double value = total / static_cast<double>(a.height * a.width);
    if (a.image_type == Type::u8) value = (value / 255 - a.mean[c]) / a.std[c];
    for (int64_t i = c; i < line; i += a.channels) rest[i] = static_cast<float>(value);
  }
  store(a.out_type, rest, fill, 0, line);
}

}  // namespace

void mean_fill_images(const MeanFill& a, int64_t begin, int64_t end, int64_t* lines, float* scratch) {
  const int64_t line = a.width * a.channels, size = size_of(a.out_type), in_size = size_of(a.image_type);
  float *fill = scratch, *x = scratch + line, *converted = x + line;
  const bool same = a.image_type == a.out_type;
  for (int64_t image = begin; image < end; ++image) {
    if (a.hidden) fill_line(a, image, fill, lines, scratch + line);
    for (int64_t y = 0; y < a.height; ++y) {
      const bool* cells = a.hidden ? a.hidden + (image * a.rows + y * a.rows / a.height) * a.columns : nullptr;
      const int64_t start = (image * a.height + y) * line;
      const char* in = static_cast<const char*>(a.images) + start * in_size;
      char* out = static_cast<char*>(a.out) + start * size;
      for (int64_t first = 0, last; first < a.columns; first = last) {  // runs of cells of one kind
        for (last = first + 1; last < a.columns && cells && cells[last] == cells[first];) ++last;
        const int64_t from = first * (line / a.columns), n = (last - first) * (line / a.columns);
        const void* source = in + from * in_size;
        if (cells && cells[first]) {
          source = fill;
        } else if (!same) {
          if (a.image_type == Type::u8) {
            normalize_pixels(reinterpret_cast<const uint8_t*>(in) + from, a.mean, a.std, x, n);
          } else {
            load(a.image_type, source, 0, x, n);
          }
          source = x;
          if (a.out_type != Type::f32) {
            store(a.out_type, x, converted, 0, n);
            source = converted;
          }
        }
        stream(out + from * size, source, n * size);
      }
    }
  }
  streamed();
}

}  // namespace fastmim::FASTMIM_ISA
