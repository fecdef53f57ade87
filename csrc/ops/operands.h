// SPDX-License-Identifier: Apache-2.0
// What the ops of an operator on the CPU and on CUDA have in common: checked and dense operands,
// and the outputs allocated for them.
#pragma once

#include "checks.h"
#include "core/heat_conduction.h"

namespace rsvheat {

// The DCT and its inverse.
struct TransformOperands {
  Layout layout;
  Shape shape;
  DType dtype;
  Tensor x, y;

  TransformOperands(const char* op, const Tensor& x_any_strides, bool channels_last)
      : layout(channels_last ? Layout::kNhwc : Layout::kNchw),
        shape(shape_of(op, "x", x_any_strides, layout)),
        dtype(dtype_of(op, "x", x_any_strides)),
        x(dense(x_any_strides)),
        y(empty_like_dense(x)) {}
};

constexpr const char* op_name(Conduction kind) {
  return kind == Conduction::kFilter ? "apply_heat_filter" : "heat_conduction";
}

constexpr const char* coefficients_name(Conduction kind) {
  return kind == Conduction::kFilter ? "filter" : "k";
}

// Heat conduction by a diffusivity or by a prepared filter.
struct ConductionOperands {
  const char* op;
  Shape shape;
  DType dtype;
  CoefficientTensor coefficients;
  Tensor x, y;

  ConductionOperands(const Tensor& x_any_strides, const Tensor& coefficients_any_strides,
                     Conduction kind)
      : op(op_name(kind)),
        shape(shape_of(op, "x", x_any_strides, Layout::kNhwc)),
        dtype(dtype_of(op, "x", x_any_strides)),
        coefficients(
            coefficients_of(op, coefficients_name(kind), coefficients_any_strides, x_any_strides)),
        x(dense(x_any_strides)),
        y(empty_like_dense(x)) {}
};

// Its gradients. Those that are not needed are empty tensors and null pointers.
struct ConductionGradients {
  const char* op;
  Shape shape;
  DType dtype;
  CoefficientTensor coefficients;
  Tensor grad_y, x, grad_x, grad_coefficients;
  bool need_x, need_coefficients;

  ConductionGradients(const Tensor& grad_y_any_strides, const Tensor& x_any_strides,
                      const Tensor& coefficients_any_strides, bool need_x, bool need_coefficients,
                      Conduction kind)
      : op(op_name(kind)),
        shape(shape_of(op, "x", x_any_strides, Layout::kNhwc)),
        dtype(dtype_of(op, "x", x_any_strides)),
        coefficients(
            coefficients_of(op, coefficients_name(kind), coefficients_any_strides, x_any_strides)),
        grad_y(like_x(op, grad_y_any_strides, x_any_strides)),
        // Without grad_coefficients the values of x are not read.
        x(need_coefficients ? dense(x_any_strides) : x_any_strides),
        grad_x(need_x ? empty_like_dense(grad_y) : no_tensor(grad_y)),
        grad_coefficients(need_coefficients ? empty_like_dense(coefficients.tensor)
                                            : no_tensor(coefficients.tensor)),
        need_x(need_x),
        need_coefficients(need_coefficients) {}

  const void* x_data() const { return need_coefficients ? x.const_data_ptr() : nullptr; }
  void* grad_x_data() const { return need_x ? grad_x.mutable_data_ptr() : nullptr; }
  void* grad_coefficients_data() const {
    return need_coefficients ? grad_coefficients.mutable_data_ptr() : nullptr;
  }

 private:
  static Tensor like_x(const char* op, const Tensor& grad_y, const Tensor& x) {
    check_same_shape(op, "grad_y", grad_y, "x", x);
    check_dtype(op, "grad_y", grad_y, x.scalar_type());
    check_same_device(op, "grad_y", grad_y, "x", x);
    return dense(grad_y);
  }
};

// The split of images into a low and a high band.
struct SplitOperands {
  static constexpr const char* kOp = "frequency_split";
  Shape shape;
  DType dtype;
  Tensor x, radius, angles, low, high;

  SplitOperands(const Tensor& x_any_strides, const Tensor& radius_any_strides,
                const Tensor& angles_any_strides)
      : shape(shape_of(kOp, "x", x_any_strides, Layout::kNchw)),
        dtype(dtype_of(kOp, "x", x_any_strides)),
        x(dense(x_any_strides)),
        radius(dense(radius_any_strides)),
        angles(dense(angles_any_strides)),
        low(empty_like_dense(x)),
        high(empty_like_dense(x)) {
    STD_TORCH_CHECK(radius.dim() == 1 && radius.size(0) == shape.batch, kOp,
                    ": radius must be (B,) = (", shape.batch, ",), but it has shape ",
                    sizes_to_string(radius));
    STD_TORCH_CHECK(angles.dim() == 2 && angles.size(0) == shape.batch && angles.size(1) == 2, kOp,
                    ": angles must be (B, 2) = (", shape.batch, ", 2), but it has shape ",
                    sizes_to_string(angles));
    check_dtype(kOp, "radius", radius, ScalarType::Double);
    check_dtype(kOp, "angles", angles, ScalarType::Double);
    check_same_device(kOp, "radius", radius, "x", x);
    check_same_device(kOp, "angles", angles, "x", x);
  }
};

// The spectral loss, with its gradient or an empty tensor.
struct SpectralL1Operands {
  static constexpr const char* kOp = "spectral_l1";
  Shape shape;
  DType dtype;
  Tensor pred, target, grad;
  bool with_grad;

  SpectralL1Operands(const Tensor& pred_any_strides, const Tensor& target_any_strides,
                     bool with_grad)
      : shape(shape_of(kOp, "pred", pred_any_strides, Layout::kNchw)),
        dtype(dtype_of(kOp, "pred", pred_any_strides)),
        pred(dense(pred_any_strides)),
        target(like_pred(target_any_strides, pred_any_strides)),
        grad(with_grad ? empty_like_dense(pred) : no_tensor(pred)),
        with_grad(with_grad) {}

  void* grad_data() const { return with_grad ? grad.mutable_data_ptr() : nullptr; }

 private:
  static Tensor like_pred(const Tensor& target, const Tensor& pred) {
    check_same_shape(kOp, "target", target, "pred", pred);
    check_dtype(kOp, "target", target, pred.scalar_type());
    check_same_device(kOp, "target", target, "pred", pred);
    return dense(target);
  }
};

}  // namespace rsvheat
