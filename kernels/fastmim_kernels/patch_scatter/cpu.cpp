// patch_scatter for CPU tensors: checks and threads. The copying is in cpu_body.cpp.
#include <vector>

#include "cpu_body.h"
#include "tensors.h"

namespace fastmim {
namespace {

Tensor patch_scatter(Tensor grad, Tensor ids, int64_t height, int64_t width, int64_t patch_size,
                     torch::headeronly::ScalarType dtype, int64_t token_size, int64_t columns) {
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(2) > 0 && ids.dim() == 2 && patch_size > 0 && token_size > 0 && columns > 0,
                  "patch_scatter: wrong number of dimensions, or sizes");
  grad = torch::stable::contiguous(grad);
  ids = torch::stable::contiguous(ids);
  const int64_t batch = ids.size(0), num_ids = ids.size(1);
  const Images shape{height, width, grad.size(2) / (token_size * token_size), patch_size};
  const TokenMap map{shape, token_size, columns};
  STD_TORCH_CHECK(grad.size(0) == batch && grad.size(1) == num_ids * strips_of(map) * strips_of(map) &&
                      grad.size(2) == token_size * token_size * shape.channels && patch_size % token_size == 0 &&
                      num_ids % columns == 0 && height % patch_size == 0 && width % patch_size == 0,
                  "patch_scatter: grad does not fit");
  const int64_t patches = patches_of(shape);
  const int64_t* index = ids.const_data_ptr<int64_t>();
  std::vector<int64_t> rows(batch * patches, -1);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    STD_TORCH_CHECK(index[i] >= 0 && index[i] < patches, "patch_scatter: ids[", i / num_ids, ", ", i % num_ids,
                    "] is ", index[i], ", but an image has ", patches, " patches");
    int64_t& row = rows[i / num_ids * patches + index[i]];
    STD_TORCH_CHECK(row < 0, "patch_scatter: ids[", i / num_ids, ", ", i % num_ids, "] names patch ", index[i],
                    " a second time");
    row = i;
  }

  Tensor out = torch::stable::new_empty(grad, {batch, height, width, shape.channels}, dtype);
  const PatchScatter work{
      .map = map,
      .grad = grad.const_data_ptr(),
      .grad_type = type_of(grad),
      .rows = rows.data(),
      .out = out.mutable_data_ptr(),
      .out_type = type_of(out),
  };
  STD_TORCH_CHECK(work.grad_type != Type::u8 && work.out_type != Type::u8, "patch_scatter: expected floating tensors");
  static PatchScatterImages* const body = FASTMIM_CHOOSE(patch_scatter_images);
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(line_of(shape));
    body(work, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fastmim

STABLE_TORCH_LIBRARY_IMPL(fastmim, CPU, library) { library.impl("patch_scatter", TORCH_BOX(&fastmim::patch_scatter)); }
