// SPDX-License-Identifier: Apache-2.0
#include "core/spatial_correction.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = "spatial_correction_conv";

// x and the parameters, dense and checked to fit it.
struct Operands {
  Tensor x, embed, norm_weight, norm_bias, conv_weight, conv_bias;
  double eps;
  DType dtype;
  Shape shape;

  Operands(const Tensor& x_any_strides, const Tensor& embed, const Tensor& norm_weight,
           const Tensor& norm_bias, const Tensor& conv_weight, const Tensor& conv_bias, double eps)
      : x(dense(x_any_strides)),
        embed(dense(coefficients_of(kOp, "embed", embed, x).tensor)),
        norm_weight(channel_parameter(kOp, "norm_weight", norm_weight, x)),
        norm_bias(channel_parameter(kOp, "norm_bias", norm_bias, x)),
        conv_weight(dense(conv_weight)),
        conv_bias(channel_parameter(kOp, "conv_bias", conv_bias, x)),
        eps(eps),
        dtype(dtype_of(kOp, "x", x)),
        shape(shape_of(kOp, "x", x, Layout::kNhwc)) {
    STD_TORCH_CHECK(conv_weight.dim() == 4 && conv_weight.size(0) == shape.channels &&
                        conv_weight.size(1) == 1 && conv_weight.size(2) == 3 &&
                        conv_weight.size(3) == 3,
                    kOp, ": conv_weight must be (C, 1, 3, 3) for x ", sizes_to_string(x),
                    ", but it has shape ", sizes_to_string(conv_weight));
    check_dtype(kOp, "conv_weight", conv_weight, parameter_type(x.scalar_type()));
    check_same_device(kOp, "conv_weight", conv_weight, "x", x);
  }

  CorrectionParameters parameters() const {
    return {embed.const_data_ptr(),
            {norm_weight.const_data_ptr(), norm_bias.const_data_ptr(), eps},
            conv_weight.const_data_ptr(),
            conv_bias.const_data_ptr()};
  }
};

Tensor spatial_correction_conv(const Tensor& x, const Tensor& embed, const Tensor& norm_weight,
                               const Tensor& norm_bias, const Tensor& conv_weight,
                               const Tensor& conv_bias, double eps) {
  const Operands operands(x, embed, norm_weight, norm_bias, conv_weight, conv_bias, eps);
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
  const Operands operands(x, embed, norm_weight, norm_bias, conv_weight, conv_bias, eps);
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
