// Tokens put back in place, and the gradients, against sums in double.
#include "body_test.h"
#include "cpu_body.h"
#include "../unshuffle_backward/cpu_body.h"

namespace fastmim {
namespace {

void test_unshuffle(UnshuffleHidden* hidden, UnshuffleTokens* tokens, UnshuffleBackwardImages* backward,
                    SumRows* sum_rows, const char* isa, Type type, Type pos_type, int64_t dim, bool raster) {
  const int64_t batch = 3, patches = 13, keep = 3, prefix = 1, total = prefix + patches, given = prefix + keep;
  Array latent(type, batch * given * dim), pos(pos_type, total * dim), table(pos_type, patches * dim);
  Array out(pos_type, batch * total * dim), grad(type, batch * given * dim);
  std::vector<float> token(dim, 0.5f);
  for (int64_t i = 0; i < batch * given * dim; ++i) latent.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t i = 0; i < total * dim; ++i) pos.set(i, static_cast<float>(uniform() * 4 - 2));
  std::vector<int64_t> ids(batch * patches);
  for (int64_t i = 0; i < batch * patches; ++i) ids[i] = (5 * i + i / patches) % patches;
  const Unshuffle work{latent.bytes.get(), type, token.data(), pos.bytes.get(), pos_type, ids.data(),
                       table.bytes.get(), out.bytes.get(), prefix, keep, patches, dim, raster};
  split(patches, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    hidden(work, begin, end, scratch.data());
  });
  split(batch * total, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    tokens(work, begin, end, scratch.data());
  });
  const UnshuffleBackward reverse{out.bytes.get(), pos_type, ids.data(), grad.bytes.get(), type,
                                  prefix, keep, patches, dim, raster};
  std::vector<float> sums(batch * dim), positions(dim);
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(patches - keep);
    std::vector<float> scratch(8 * dim);
    backward(reverse, begin, end, sums.data(), rows.data(), scratch.data());
  });
  std::vector<double> expected(batch * dim), first(dim);
  const double tolerance = type == Type::f32 && pos_type == Type::f32 ? 1e-6 : 4e-2;
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t j = 0; j < total; ++j) {
      const int64_t place = j < prefix ? j : prefix + ids[image * patches + j - prefix];
      const int64_t row = image * total + (raster ? place : j);
      for (int64_t d = 0; d < dim; ++d) {
        const double x = out.at(row * dim + d), was = j < given ? latent.at((image * given + j) * dim + d) : 0.5;
        check(std::fabs(x - was - pos.at(place * dim + d)) < tolerance, "unshuffle", isa);
        if (j < given) {
          check(std::fabs(grad.at((image * given + j) * dim + d) - x) < tolerance, "unshuffle: latent", isa);
        } else {
          expected[image * dim + d] += x;
        }
        if (j == 0) first[d] += x;
      }
    }
  }
  const std::vector<int64_t> rows{0, total, 2 * total};
  std::vector<float> scratch(8 * dim);
  sum_rows(pos_type, out.bytes.get(), dim, rows.data(), batch, positions.data(), scratch.data());
  for (int64_t d = 0; d < dim; ++d) check(std::fabs(positions[d] - first[d]) < 1e-5, "unshuffle: positions", isa);
  for (int64_t i = 0; i < batch * dim; ++i) {
    check(std::fabs(sums[i] - expected[i]) < 1e-4, "unshuffle: mask token", isa);
  }
}

}  // namespace

FASTMIM_TEST(unshuffle) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t dim : {1, 24, 37}) {
      for (int flags = 0; flags < 4; ++flags) {
        test_unshuffle(FASTMIM_BODY(unshuffle_hidden), FASTMIM_BODY(unshuffle_tokens),
                       FASTMIM_BODY(unshuffle_backward_images), FASTMIM_BODY(sum_rows), isa, type,
                       flags & 1 ? type : Type::f32, dim, flags & 2);
      }
    }
  }
}

}  // namespace fastmim
