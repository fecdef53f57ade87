// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "fused_operands.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = CorrectionOperands::kOp;

Tensor spatial_correction_conv(const Tensor& x, const Tensor& embed, const Tensor& norm_weight,
                               const Tensor& norm_bias, const Tensor& conv_weight,
                               const Tensor& conv_bias, double eps) {
  const CorrectionOperands operands(x, embed, norm_weight, norm_bias, conv_weight, conv_bias, eps);
  Tensor y = empty_like_dense(operands.x);
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    spatial_correction_conv_cpu(operands.x.const_data_ptr(), operands.parameters(),
                                y.mutable_data_ptr(), operands.dtype, operands.shape, parallel);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> spatial_correction_conv_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& embed, const Tensor& norm_weight,
    const Tensor& norm_bias, const Tensor& conv_weight, const Tensor& conv_bias, double eps) {
  const CorrectionOperands operands(x, embed, norm_weight, norm_bias, conv_weight, conv_bias, eps);
  check_same_shape(kOp, "grad_y", grad_y, "x", x);
  check_dtype(kOp, "grad_y", grad_y, x.scalar_type());
  const Tensor grad = dense(grad_y);
  Tensor grad_x = empty_like_dense(operands.x);
  Tensor grad_embed = empty_like_dense(operands.embed);
  Tensor grad_norm_weight = empty_like_dense(operands.norm_weight);
  Tensor grad_norm_bias = empty_like_dense(operands.norm_bias);
  Tensor grad_conv_weight = empty_like_dense(operands.conv_weight);
  Tensor grad_conv_bias = empty_like_dense(operands.conv_bias);
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    const CorrectionGradients gradients{
        grad_x.mutable_data_ptr(),           grad_embed.mutable_data_ptr(),
        grad_norm_weight.mutable_data_ptr(), grad_norm_bias.mutable_data_ptr(),
        grad_conv_weight.mutable_data_ptr(), grad_conv_bias.mutable_data_ptr()};
    spatial_correction_conv_backward_cpu(grad.const_data_ptr(), operands.x.const_data_ptr(),
                                         operands.parameters(), gradients, operands.dtype,
                                         operands.shape, parallel);
  });
  return {grad_x, grad_embed, grad_norm_weight, grad_norm_bias, grad_conv_weight, grad_conv_bias};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("spatial_correction_conv", TORCH_BOX(&rsvheat::spatial_correction_conv));
  m.impl("_spatial_correction_conv_backward",
         TORCH_BOX(&rsvheat::spatial_correction_conv_backward));
}
