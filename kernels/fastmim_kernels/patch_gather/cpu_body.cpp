#include "cpu_body.h"

namespace fastmim::FASTMIM_ISA {

void patch_gather_rows(const PatchGather& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t values = values_of(a.shape), size = size_of(a.image_type), out_size = size_of(a.out_type);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t start = start_of(a.shape, n / a.num_ids, a.ids[n]);
    char* out = static_cast<char*>(a.out) + n * values * out_size;
    if (a.image_type == a.out_type) {
      copy_patch(a.shape, a.images, size, start, out);
      continue;
    }
    void* pixels = scratch + values;
    float* x = a.out_type == Type::f32 ? reinterpret_cast<float*>(out) : scratch;
    copy_patch(a.shape, a.images, size, start, pixels);
    if (a.image_type == Type::u8) {
      normalize_pixels(static_cast<const uint8_t*>(pixels), a.mean, a.std, x, values);
    } else {
      load(a.image_type, pixels, 0, x, values);
    }
    if (a.out_type != Type::f32) store(a.out_type, x, out, 0, values);
  }
}

}  // namespace fastmim::FASTMIM_ISA
