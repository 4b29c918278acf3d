// Maps with mask tokens, and the gradients, against sums in double.
#include "body_test.h"
#include "cpu_body.h"
#include "../mask_token_backward/cpu_body.h"

namespace fastmim {
namespace {

void test_mask_token(MaskTokenLines* body, MaskTokenBackwardImages* backward, const char* isa, Type type, int64_t dim,
                     bool add, bool gated) {
  const int64_t batch = 3, height = 4, width = 6, n = batch * height * width;
  const std::unique_ptr<bool[]> hidden(new bool[batch * 6]);
  for (int64_t i = 0; i < batch * 6; ++i) hidden[i] = i % 3 != 1;
  const Map map{hidden.get(), height, width, dim, 2, 3};
  Array x(type, n * dim), out(type, n * dim), grad(type, n * dim), replacement(type, dim);
  for (int64_t i = 0; i < n * dim; ++i) x.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t d = 0; d < dim; ++d) replacement.set(d, 0.5f);
  const std::vector<float> token(dim, 0.5f), gamma(dim, 0.25f);
  const float* scale = gated ? gamma.data() : nullptr;
  split(batch * height, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    body({map, x.bytes.get(), type, replacement.bytes.get(), token.data(), scale, add, out.bytes.get()}, begin, end,
         scratch.data());
  });
  std::vector<float> sums(2 * batch * dim);
  void* to = gated || !add ? grad.bytes.get() : nullptr;
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(width);
    std::vector<float> scratch(10 * dim);
    backward({map, out.bytes.get(), type, x.bytes.get(), type, scale, to}, begin, end, sums.data(), rows.data(),
             scratch.data());
  });
  const double tolerance = type == Type::f32 ? 1e-5 : 4e-2;
  std::vector<double> expected(2 * batch * dim);
  for (int64_t i = 0; i < n * dim; ++i) {
    const int64_t position = i / dim, image = position / (height * width), y = position / width % height;
    const bool where = hidden[image * 6 + y / 2 * 3 + position % width / 2];
    const double mixed = add ? (gated ? 0.25 : 1) * x.at(i) + 0.5 : 0.5, g = out.at(i);
    check(std::fabs(g - (where ? mixed : x.at(i))) < tolerance, "mask token", isa);
    if (to) check(std::fabs(grad.at(i) - (where ? (gated ? 0.25 * g : 0) : g)) < tolerance, "mask token: x", isa);
    if (where) {
      expected[2 * image * dim + i % dim] += g;
      expected[(2 * image + 1) * dim + i % dim] += gated ? g * x.at(i) : 0;
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) check(std::fabs(sums[i] - expected[i]) < 1e-4, "mask token: sums", isa);
}

}  // namespace

FASTMIM_TEST(mask_token) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t dim : {1, 24, 37}) {
      for (int mode = 0; mode < 3; ++mode) {
        test_mask_token(FASTMIM_BODY(mask_token_lines), FASTMIM_BODY(mask_token_backward_images), isa, type, dim,
                        mode > 0, mode > 1);
      }
    }
  }
}

}  // namespace fastmim
