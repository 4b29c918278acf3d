// scale_gradient for CPU tensors: checks and threads. The arithmetic is in cpu_body.cpp.
#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

void scale_gradient(Tensor x, Tensor factor) {
  STD_TORCH_CHECK(x.is_contiguous() && type_of(x) != Type::u8, "scale_gradient: expected a contiguous floating tensor");
  STD_TORCH_CHECK(factor.numel() == 1, "scale_gradient: expected a factor of one value");
  const float f = *factor.const_data_ptr<float>();
  if (f == 1.0f) return;
  const Type type = type_of(x);
  void* data = x.mutable_data_ptr();
  static ScaleGradient* const body = FASTMIM_CHOOSE(scale_gradient_values);
  torch::stable::parallel_for(0, x.numel(), 16384,
                              [&](int64_t begin, int64_t end) { body(type, data, begin, end, f); });
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("scale_gradient", TORCH_BOX(&fastmim::scale_gradient)); }
