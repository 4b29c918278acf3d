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
      const auto* in = static_cast<const uint8_t*>(pixels);
      // x / 255 to the last bit, which near the mean is many bits of the result: 1 / 255 = 65793 / 2^24 + 1 / (255 2^24),
      // and as 255 * 65793 < 2^24 the first product is exact. Two divisions would take twice as long.
      constexpr float head = 65793 * 0x1p-24f, tail = 0x1p-24f / 255;
#pragma omp simd
      for (int64_t i = 0; i < values; ++i) {
        const float value = static_cast<float>(static_cast<int32_t>(in[i]));
        x[i] = (value * head + value * tail - a.mean[i]) / a.std[i];
      }
    } else {
      load(a.image_type, pixels, 0, x, values);
    }
    if (a.out_type != Type::f32) store(a.out_type, x, out, 0, values);
  }
}

}  // namespace fastmim::FASTMIM_ISA
