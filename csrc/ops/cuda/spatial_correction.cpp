// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/spatial_correction.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../fused_operands.h"
#include "run.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = CorrectionOperands::kOp;

Tensor spatial_correction_conv(const Tensor& x, const Tensor& embed, const Tensor& norm_weight,
                               const Tensor& norm_bias, const Tensor& conv_weight,
                               const Tensor& conv_bias, double eps) {
  const CorrectionOperands operands(x, embed, norm_weight, norm_bias, conv_weight, conv_bias, eps);
  Tensor y = empty_like_dense(operands.x);
  run_on_device(
      kOp, operands.x,
      [&](cudaStream_t, size_t* bytes) {
        *bytes = spatial_correction_conv_cuda_workspace(operands.dtype, operands.shape);
        return Status{};
      },
      [&](void* workspace, cudaStream_t stream) {
        return spatial_correction_conv_cuda(operands.x.const_data_ptr(), operands.parameters(),
                                            y.mutable_data_ptr(), operands.dtype, operands.shape,
                                            workspace, stream);
      });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> spatial_correction_conv_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& embed, const Tensor& norm_weight,
    const Tensor& norm_bias, const Tensor& conv_weight, const Tensor& conv_bias, double eps) {
  const CorrectionOperands operands(x, embed, norm_weight, norm_bias, conv_weight, conv_bias, eps);
  const CorrectionGradientTensors gradients(grad_y, operands);
  run_on_device(
      kOp, operands.x,
      [&](cudaStream_t, size_t* bytes) {
        *bytes = spatial_correction_conv_backward_cuda_workspace(operands.dtype, operands.shape);
        return Status{};
      },
      [&](void* workspace, cudaStream_t stream) {
        return spatial_correction_conv_backward_cuda(
            gradients.y.const_data_ptr(), operands.x.const_data_ptr(), operands.parameters(),
            gradients.view(), operands.dtype, operands.shape, workspace, stream);
      });
  return gradients.results();
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("spatial_correction_conv", TORCH_BOX(&rsvheat::spatial_correction_conv));
  m.impl("_spatial_correction_conv_backward",
         TORCH_BOX(&rsvheat::spatial_correction_conv_backward));
}
