// SPDX-License-Identifier: Apache-2.0
// What the fused steps of a block on the CPU and on CUDA have in common: checked operands.
#pragma once

#include <tuple>

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

// The gradient of a step's result, checked, and the gradients to be computed; that of the other
// operand is an empty tensor where it is that of the result.
struct NormGradients {
  Tensor y, x, other, weight, bias;

  NormGradients(NormStep step, const Tensor& grad_y, const Tensor& x_any_strides,
                const Tensor& other_any_strides, const Tensor& weight, const Tensor& bias)
      : y(like_other(op_name(step), grad_y, x_any_strides, other_any_strides)),
        x(empty_like_dense(x_any_strides)),
        other(step == NormStep::kGate ? empty_like_dense(x_any_strides) : no_tensor(x_any_strides)),
        weight(empty_like_dense(weight)),
        bias(empty_like_dense(bias)) {}

 private:
  static Tensor like_other(const char* op, const Tensor& grad_y, const Tensor& x,
                           const Tensor& other) {
    check_same_shape(op, "grad_y", grad_y, "x", x);
    check_dtype(op, "grad_y", grad_y, other.scalar_type());
    check_same_device(op, "grad_y", grad_y, "x", x);
    return dense(grad_y);
  }
};

// The ops of a device from its `Tensor Forward(step, x, other, weight, bias, eps)` and
// `NormGradients Backward(step, grad_y, x, other, weight, bias, eps)`.
template <auto Forward, auto Backward>
struct NormOps {
  static Tensor gated(const Tensor& x, const Tensor& gate, const Tensor& weight, const Tensor& bias,
                      double eps) {
    return Forward(NormStep::kGate, x, gate, weight, bias, eps);
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor> gated_backward(const Tensor& grad_y,
                                                                   const Tensor& x,
                                                                   const Tensor& gate,
                                                                   const Tensor& weight,
                                                                   const Tensor& bias, double eps) {
    const NormGradients g = Backward(NormStep::kGate, grad_y, x, gate, weight, bias, eps);
    return {g.x, g.other, g.weight, g.bias};
  }
  static Tensor add(const Tensor& residual, const Tensor& x, const Tensor& weight,
                    const Tensor& bias, double eps) {
    return Forward(NormStep::kAdd, x, residual, weight, bias, eps);
  }
  static std::tuple<Tensor, Tensor, Tensor> add_backward(const Tensor& grad_y, const Tensor& x,
                                                         const Tensor& weight, const Tensor& bias,
                                                         double eps) {
    check_same_shape(op_name(NormStep::kAdd), "grad_y", grad_y, "x", x);
    // Of the residual only the type matters, which is that of grad_y.
    const NormGradients g = Backward(NormStep::kAdd, grad_y, x, grad_y, weight, bias, eps);
    return {g.x, g.weight, g.bias};
  }
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

// The gradient of the result, checked, and the gradients to be computed.
struct CorrectionGradientTensors {
  Tensor y, x, embed, norm_weight, norm_bias, conv_weight, conv_bias;

  CorrectionGradientTensors(const Tensor& grad_y, const CorrectionOperands& of)
      : y(like_x(grad_y, of.x)),
        x(empty_like_dense(of.x)),
        embed(empty_like_dense(of.embed)),
        norm_weight(empty_like_dense(of.norm_weight)),
        norm_bias(empty_like_dense(of.norm_bias)),
        conv_weight(empty_like_dense(of.conv_weight)),
        conv_bias(empty_like_dense(of.conv_bias)) {}

  CorrectionGradients view() const {
    return {x.mutable_data_ptr(),           embed.mutable_data_ptr(),
            norm_weight.mutable_data_ptr(), norm_bias.mutable_data_ptr(),
            conv_weight.mutable_data_ptr(), conv_bias.mutable_data_ptr()};
  }
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> results() const {
    return {x, embed, norm_weight, norm_bias, conv_weight, conv_bias};
  }

 private:
  static Tensor like_x(const Tensor& grad_y, const Tensor& x) {
    constexpr const char* kOp = CorrectionOperands::kOp;
    check_same_shape(kOp, "grad_y", grad_y, "x", x);
    check_dtype(kOp, "grad_y", grad_y, x.scalar_type());
    check_same_device(kOp, "grad_y", grad_y, "x", x);
    return dense(grad_y);
  }
};

}  // namespace rsvheat
