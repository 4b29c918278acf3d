// Patches gathered and scattered back, against the pixels they come from.
#include "body_test.h"
#include "cpu_body.h"
#include "../patch_scatter/cpu_body.h"

namespace fastmim {
namespace {

void test_patches(PatchGatherRows* gather, PatchScatterImages* scatter, const char* isa, Type image_type, Type type,
                  int64_t p, int64_t t, int64_t channels) {
  const int64_t batch = 2, patches = 6, num_ids = 4;
  const Images shape{2 * p, 3 * p, channels, p};
  const TokenMap map{shape, t, 2};
  const int64_t values = p * p * channels, pixels = batch * patches * values;
  const bool bytes = image_type == Type::u8;
  Array images(image_type, pixels), out(type, batch * num_ids * values), back(type, pixels);
  for (int64_t i = 0; i < pixels; ++i) images.set(i, static_cast<float>(bytes ? i % 256 : uniform() * 4 - 2));
  const std::vector<int64_t> ids{5, 0, 3, 1, 2, 1, 0, 5};
  std::vector<int64_t> rows(batch * patches, -1);
  for (int64_t n = 0; n < batch * num_ids; ++n) rows[n / num_ids * patches + ids[n]] = n;
  const std::vector<float> mean(strip_of(map), 0.456f), std(strip_of(map), 0.224f);
  const PatchGather work{map, images.bytes.get(), image_type, ids.data(), num_ids, mean.data(), std.data(),
                         out.bytes.get(), type};
  split(batch * num_ids, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    gather(work, begin, end, scratch.data());
  });
  const PatchScatter reverse{map, out.bytes.get(), type, rows.data(), back.bytes.get(), type};
  split(batch, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(p * channels);
    scatter(reverse, begin, end, scratch.data());
  });
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t y = 0; y < 2 * p; ++y) {
      for (int64_t x = 0; x < 3 * p; ++x) {
        const bool named = rows[image * patches + y / p * 3 + x / p] >= 0;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t i = ((image * 2 * p + y) * 3 * p + x) * channels + c;
          const float value = static_cast<float>(images.at(i));
          Array expected(type, 1);
          expected.set(0, bytes ? (value / 255.0f - 0.456f) / 0.224f : value);
          check(back.at(i) == (named ? expected.at(0) : 0), "patch gathered and scattered back", isa);
        }
      }
    }
  }
}

}  // namespace

FASTMIM_TEST(patch_gather) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t p : {1, 3, 7, 16}) {
      for (int64_t t : {int64_t{1}, p == 16 ? 4 : p, p}) {
        for (Type image : {Type::u8, type}) {
          test_patches(FASTMIM_BODY(patch_gather_rows), FASTMIM_BODY(patch_scatter_images), isa, image, type, p, t,
                       p == 1 ? 1 : 3);
        }
      }
    }
  }
}

}  // namespace fastmim
