// What the torch side of the ops shares. Threads: torch::stable::parallel_for, which runs on the OpenMP pool inside
// libtorch_cpu. Linking OpenMP here would, for torch wheels that rename their libgomp, bring a second runtime with a
// second pool, and torch.set_num_threads would govern only one of them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "body.h"

namespace fastmim {

using torch::stable::Tensor;

inline Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case torch::headeronly::ScalarType::Float:
      return Type::f32;
    case torch::headeronly::ScalarType::BFloat16:
      return Type::bf16;
    case torch::headeronly::ScalarType::Half:
      return Type::f16;
    case torch::headeronly::ScalarType::Byte:
      return Type::u8;
    default:
      STD_TORCH_CHECK(false, "expected float32, bfloat16, float16 or uint8, got ",
                      torch::headeronly::toString(x.scalar_type()));
  }
}

}  // namespace fastmim
