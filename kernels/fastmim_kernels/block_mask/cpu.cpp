// block_mask for CPU tensors: checks and threads. The drawing is in cpu_body.cpp.
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor block_mask(int64_t seed, int64_t stream, Tensor ids, int64_t rows, int64_t columns, int64_t side) {
  constexpr int64_t limit = int64_t{1} << 31;
  STD_TORCH_CHECK(ids.dim() == 1, "block_mask: expected ids of one dimension");
  STD_TORCH_CHECK(0 < rows && rows < limit && 0 < columns && columns < limit && rows * columns < limit && 0 < side &&
                      side < limit,
                  "block_mask: expected 1 to 2**31 - 1 patches and a side of at least 1, got ", rows, " x ", columns,
                  " and ", side);
  ids = torch::stable::contiguous(ids);
  Tensor order = torch::stable::new_empty(ids, {ids.numel(), rows * columns});
  const BlockMask work{
      .seed = static_cast<uint64_t>(seed),
      .stream = static_cast<uint32_t>(stream),
      .ids = ids.const_data_ptr<int64_t>(),
      .rows = rows,
      .columns = columns,
      .side = side,
      .order = order.mutable_data_ptr<int64_t>(),
  };
  static BlockMaskRows* const body = FASTMIM_CHOOSE(block_mask_rows);
  // A smaller task than about 8,192 patches costs more to start than to run.
  torch::stable::parallel_for(0, ids.numel(), 1 + 8192 / (rows * columns), [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(block_mask_blocks(rows, columns, side)) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  return order;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("block_mask", TORCH_BOX(&fastmim::block_mask)); }
