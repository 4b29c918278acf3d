// Values times a factor.
#include "body_test.h"
#include "cpu_body.h"

namespace fastmim {
namespace {

void test_scale_gradient(ScaleGradient* body, const char* isa, Type type) {
  const int64_t n = 2777;
  Array x(type, n), before(type, n);
  for (int64_t i = 0; i < n; ++i) {
    x.set(i, static_cast<float>(uniform() * 4 - 2));
    before.set(i, static_cast<float>(x.at(i)));
  }
  split(n, 3, [&](int64_t begin, int64_t end) { body(type, x.bytes.get(), begin, end, 0.5f); });
  for (int64_t i = 0; i < n; ++i) check(x.at(i) == 0.5 * before.at(i), "scaled gradient", isa);
}

}  // namespace

FASTMIM_TEST(scale_gradient) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    test_scale_gradient(FASTMIM_BODY(scale_gradient_values), isa, type);
  }
}

}  // namespace fastmim
