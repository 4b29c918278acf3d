// Shared parts of the torch side of the ops.
//
// Threads: use torch::stable::parallel_for, which runs on the OpenMP pool inside libtorch_cpu. Do not link OpenMP here:
// with torch wheels that rename their libgomp, that brings a second runtime with a second pool, and
// torch.set_num_threads then governs only one of the two.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

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

// Returns the values of a floating tensor.
inline std::vector<float> floats_of(const Tensor& x) {
  const Tensor values = torch::stable::contiguous(x);
  std::vector<float> out(values.numel());
  load(type_of(values), values.const_data_ptr(), 0, out.data(), values.numel());
  return out;
}

// Raises unless `hidden`, (B, rows, columns), has cells that divide the map `x`, (B, H, W, C).
inline void check_cells(const char* op, const Tensor& hidden, const Tensor& x) {
  STD_TORCH_CHECK(hidden.scalar_type() == torch::headeronly::ScalarType::Bool && hidden.dim() == 3 &&
                      hidden.size(0) == x.size(0) && hidden.size(1) > 0 && x.size(1) % hidden.size(1) == 0 &&
                      hidden.size(2) > 0 && x.size(2) % hidden.size(2) == 0,
                  op, ": the cells of `hidden` do not divide the map");
}

// Raises unless every row of `ids`, (B, L) and contiguous, is a permutation of 0..L-1.
inline void check_permutations(const char* op, const Tensor& ids) {
  const int64_t* index = ids.const_data_ptr<int64_t>();
  const int64_t length = ids.size(1);
  std::vector<int64_t> seen(length, -1);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < length && seen[index[i]] != i / length, op, ": ids[", i / length, ", ",
                    i % length, "] is ", index[i], ": that row is no permutation of ", length, " patches");
    seen[index[i]] = i / length;
  }
}

}  // namespace fastmim
