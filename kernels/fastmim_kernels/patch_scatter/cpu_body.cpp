#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void patch_scatter_images(const PatchScatter& a, int64_t begin, int64_t end, float* scratch) {
  const Images& shape = a.map.images;
  const int64_t p = shape.patch_size, t = a.map.token_size, line = line_of(shape), run = run_of(a.map);
  const int64_t columns = shape.width / p, size = size_of(a.out_type), grid_rows = shape.height / p;
  char* out = static_cast<char*>(a.out) + begin * shape.height * columns * line * size;
  // Writes in the order of the pixels, so that every cache line is written whole and once.
  for (int64_t row = begin * grid_rows; row < end * grid_rows; ++row) {
    for (int64_t y = 0; y < p; ++y) {
      for (int64_t column = 0; column < columns; ++column, out += line * size) {
        const int64_t n = a.rows[row * columns + column];
        if (n < 0) {
          memset(out, 0, line * size);
          continue;
        }
        const int64_t start = start_of(a.map, n, y / t) + y % t * run;
        const bool same = a.grad_type == a.out_type;
        for (int64_t i = 0; i < line; i += run) {
          const int64_t from = start + i * t;
          if (same) {
            copy(out + i * size, static_cast<const char*>(a.grad) + from * size, run * size);
          } else {
            load(a.grad_type, a.grad, from, scratch + i, run);
          }
        }
        if (!same) store(a.out_type, scratch, out, 0, line);
      }
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
