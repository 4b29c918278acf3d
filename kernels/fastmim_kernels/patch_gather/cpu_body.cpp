#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {
namespace {

// Prefetches the lines of a patch, which are too far apart for the hardware prefetcher.
void prefetch(const Images& images, const char* in, int64_t size) {
  const int64_t bytes = line_of(images) * size, stride = images.width * images.channels * size;
  for (int64_t y = 0; y < images.patch_size; ++y, in += stride) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(in + i);
    __builtin_prefetch(in + bytes - 1);
  }
}

// Copies the lines of a patch that make a strip.
void copy_strip(const TokenMap& map, const char* in, int64_t size, char* out) {
  const int64_t t = map.token_size, run = run_of(map) * size, tokens = strip_of(map) * size / (t * run);
  const int64_t stride = map.images.width * map.images.channels * size;
  for (int64_t y = 0; y < t; ++y) {
    for (int64_t x = 0; x < tokens; ++x) copy(out + (x * t + y) * run, in + y * stride + x * run, run);
  }
}

}  // namespace

void patch_gather_rows(const PatchGather& a, int64_t begin, int64_t end, float* scratch) {
  const Images& shape = a.map.images;
  const int64_t strips = strips_of(a.map), strip = strip_of(a.map), size = size_of(a.image_type);
  const int64_t pixel_lines = a.map.token_size * shape.width * shape.channels * size;  // of a strip, in an image
  const bool same = a.image_type == a.out_type;
  const auto patch = [&](int64_t n) {
    return static_cast<const char*>(a.images) + start_of(shape, n / a.num_ids, a.ids[n]) * size;
  };
  const auto place = [&](int64_t n, int64_t s) {
    return static_cast<char*>(a.out) + start_of(a.map, n, s) * size_of(a.out_type);
  };
  char* pixels = reinterpret_cast<char*>(scratch + strip);
  for (int64_t n = begin; n < end; ++n) {
    if (n + 1 < end) prefetch(shape, patch(n + 1), size);
    for (int64_t s = 0; s < strips; ++s) {
      copy_strip(a.map, patch(n) + s * pixel_lines, size, same ? place(n, s) : pixels + s * strip * size);
    }
    if (same) continue;
    for (int64_t s = 0; s < strips; ++s) {
      const char* in = pixels + s * strip * size;
      float* x = a.out_type == Type::f32 ? reinterpret_cast<float*>(place(n, s)) : scratch;
      if (a.image_type == Type::u8) {
        normalize_pixels(reinterpret_cast<const uint8_t*>(in), a.mean, a.std, x, strip);
      } else {
        load(a.image_type, in, 0, x, strip);
      }
      if (a.out_type != Type::f32) store(a.out_type, x, place(n, s), 0, strip);
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
