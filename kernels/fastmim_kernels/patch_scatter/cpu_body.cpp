#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void patch_scatter_images(const PatchScatter& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t p = a.shape.patch_size, line = line_of(a.shape), columns = a.shape.width / p;
  const int64_t size = size_of(a.out_type), grid_rows = a.shape.height / p;
  char* out = static_cast<char*>(a.out) + begin * a.shape.height * columns * line * size;
  // In the order of the pixels, so that every cache line is written whole and once.
  for (int64_t row = begin * grid_rows; row < end * grid_rows; ++row) {
    for (int64_t r = 0; r < p; ++r) {
      for (int64_t column = 0; column < columns; ++column, out += line * size) {
        const int64_t n = a.rows[row * columns + column], start = (n * p + r) * line;
        if (n < 0) {
          memset(out, 0, line * size);
        } else if (a.grad_type == a.out_type) {
          memcpy(out, static_cast<const char*>(a.grad) + start * size, line * size);
        } else {
          load(a.grad_type, a.grad, start, scratch, line);
          store(a.out_type, scratch, out, 0, line);
        }
      }
    }
  }
}

}  // namespace fastmim::FASTMIM_ISA
