// Torch side of residual.h: checked, contiguous tensors.
#pragma once

#include <vector>

#include "residual.h"
#include "tensors.h"

namespace fastmim {

struct ResidualTensors {
  Tensor pred, images, ids;
  int64_t batch, num_patches, values, patch_size;
  std::vector<float> scale, shift;

  ResidualTensors(const char* op, const Tensor& pred_, const Tensor& images_, const Tensor& ids_, int64_t num_keep,
                  int64_t patch_size_, Tensor mean, Tensor std)
      : pred(torch::stable::contiguous(pred_)),
        images(torch::stable::contiguous(images_)),
        ids(torch::stable::contiguous(ids_)),
        patch_size(patch_size_) {
    STD_TORCH_CHECK(pred.dim() == 3 && images.dim() == 4 && ids.dim() == 2 && patch_size > 0, op,
                    ": wrong number of dimensions");
    const int64_t channels = images.size(3);
    batch = images.size(0);
    num_patches = images.size(1) / patch_size * (images.size(2) / patch_size);
    values = patch_size * patch_size * channels;
    STD_TORCH_CHECK(pred.size(0) == batch && pred.size(1) == num_patches && pred.size(2) == values &&
                        ids.size(0) == batch && ids.size(1) == num_patches && num_keep >= 0 &&
                        num_keep <= num_patches && type_of(pred) != Type::u8 && mean.numel() == channels &&
                        std.numel() == channels,
                    op, ": pred, images, ids, mean and std do not fit together");
    check_permutations(op, ids);
    mean = torch::stable::contiguous(mean);
    std = torch::stable::contiguous(std);
    for (int64_t i = 0; i < values; ++i) {
      const float m = mean.const_data_ptr<float>()[i % channels], s = std.const_data_ptr<float>()[i % channels];
      scale.push_back(1.0f / (255.0f * s));
      shift.push_back(-m / s);
    }
  }

  Residuals residuals() const {
    return {pred.const_data_ptr(),
            type_of(pred),
            images.const_data_ptr(),
            type_of(images),
            {images.size(1), images.size(2), images.size(3), patch_size},
            scale.data(),
            shift.data()};
  }
};

}  // namespace fastmim
