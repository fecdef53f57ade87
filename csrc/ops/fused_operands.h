// SPDX-License-Identifier: Apache-2.0
// What the fused steps of a block on the CPU and on CUDA have in common: checked operands.
#pragma once

#include "checks.h"
#include "core/layer_norm.h"
#include "core/spatial_correction.h"

namespace rsvheat {

constexpr const char* op_name(NormStep step) {
  return step == NormStep::kGate ? "gated_layer_norm" : "add_layer_norm";
}

constexpr const char* other_name(NormStep step) {
  return step == NormStep::kGate ? "gate" : "residual";
}

// x, dense, and the norm's parameters, checked to fit it.
struct NormOperands {
  Tensor x, weight, bias;
  double eps;
  DType dtype;
  int64_t channels, rows;

  NormOperands(const char* op, const Tensor& x_any_strides, const Tensor& weight,
               const Tensor& bias, double eps)
      : x(dense(x_any_strides)),
        weight(channel_parameter(op, "weight", weight, x)),
        bias(channel_parameter(op, "bias", bias, x)),
        eps(eps),
        dtype(dtype_of(op, "x", x)),
        channels(x.size(-1)),
        rows(channels == 0 ? 0 : x.numel() / channels) {}

  NormParameters norm() const { return {weight.const_data_ptr(), bias.const_data_ptr(), eps}; }
};

// x and the parameters, dense and checked to fit it.
struct CorrectionOperands {
  static constexpr const char* kOp = "spatial_correction_conv";

  Tensor x, embed, norm_weight, norm_bias, conv_weight, conv_bias;
  double eps;
  DType dtype;
  Shape shape;

  CorrectionOperands(const Tensor& x_any_strides, const Tensor& embed, const Tensor& norm_weight,
                     const Tensor& norm_bias, const Tensor& conv_weight, const Tensor& conv_bias,
                     double eps)
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

}  // namespace rsvheat
