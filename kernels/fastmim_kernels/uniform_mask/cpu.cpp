// uniform_mask for CPU tensors: checks and threads. The drawing is in cpu_body.cpp.
#include <tuple>
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

std::tuple<Tensor, Tensor> uniform_mask(int64_t seed, int64_t stream, int64_t secondary_stream, Tensor ids,
                                        int64_t rows, int64_t columns, int64_t kept, bool stratified) {
  STD_TORCH_CHECK(ids.dim() == 1, "uniform_mask: expected ids of one dimension");
  STD_TORCH_CHECK(rows > 0 && columns > 0 && rows % 2 == 0 && columns % 2 == 0 && rows < int64_t{1} << 31 &&
                      columns < int64_t{1} << 31 && rows * columns < int64_t{1} << 31,
                  "uniform_mask: expected an even number of patches on each side, got ", rows, " x ", columns);
  const int64_t blocks = rows * columns / 4;
  STD_TORCH_CHECK(0 < kept && kept <= blocks, "uniform_mask: expected 0 < kept <= ", blocks, ", got ", kept);
  ids = torch::stable::contiguous(ids);
  Tensor order = torch::stable::new_empty(ids, {ids.numel(), 4 * blocks});
  Tensor secondary = torch::stable::new_empty(ids, {ids.numel(), blocks}, torch::headeronly::ScalarType::Bool);
  const UniformMask work{
      .seed = static_cast<uint64_t>(seed),
      .stream = static_cast<uint32_t>(stream),
      .secondary_stream = static_cast<uint32_t>(secondary_stream),
      .ids = ids.const_data_ptr<int64_t>(),
      .rows = rows,
      .columns = columns,
      .kept = kept,
      .stratified = stratified,
      .order = order.mutable_data_ptr<int64_t>(),
      .secondary = secondary.mutable_data_ptr<bool>(),
  };
  static UniformMaskRows* const body = FASTMIM_CHOOSE(uniform_mask_rows);
  // A smaller task than about 8,192 patches costs more to start than to run.
  torch::stable::parallel_for(0, ids.numel(), 1 + 2048 / blocks, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(uniform_mask_pool(rows, columns)) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  return {order, secondary};
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("uniform_mask", TORCH_BOX(&fastmim::uniform_mask)); }
