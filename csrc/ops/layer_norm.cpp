// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "fused_operands.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

Tensor like_x(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  check_same_shape(op, name, tensor, "x", x);
  check_dtype(op, name, tensor, x.scalar_type());
  check_same_device(op, name, tensor, "x", x);
  return dense(tensor);
}

Tensor forward(NormStep step, const Tensor& x, const Tensor& other, const Tensor& weight,
               const Tensor& bias, double eps) {
  const NormOperands operands(op_name(step), x, weight, bias, eps);
  const Tensor second = like_x(op_name(step), other_name(step), other, x);
  Tensor y = empty_like_dense(operands.x);
  run_kernel(op_name(step), [&](const ParallelFor& parallel) {
    layer_norm_cpu(step, operands.x.const_data_ptr(), second.const_data_ptr(), operands.norm(),
                   y.mutable_data_ptr(), operands.dtype, operands.rows, operands.channels,
                   parallel);
  });
  return y;
}

struct Gradients {
  Tensor x, other, weight, bias;
};

Gradients backward(NormStep step, const Tensor& grad_y, const Tensor& x, const Tensor& other,
                   const Tensor& weight, const Tensor& bias, double eps) {
  const char* op = op_name(step);
  const NormOperands operands(op, x, weight, bias, eps);
  const Tensor grad = like_x(op, "grad_y", grad_y, x);
  const Tensor second = like_x(op, other_name(step), other, x);
  Gradients gradients{empty_like_dense(operands.x),
                      step == NormStep::kGate ? empty_like_dense(operands.x) : no_tensor(x),
                      empty_like_dense(operands.weight), empty_like_dense(operands.bias)};
  run_kernel(op, [&](const ParallelFor& parallel) {
    layer_norm_backward_cpu(step, grad.const_data_ptr(), operands.x.const_data_ptr(),
                            second.const_data_ptr(), operands.norm(),
                            gradients.x.mutable_data_ptr(), gradients.other.mutable_data_ptr(),
                            gradients.weight.mutable_data_ptr(), gradients.bias.mutable_data_ptr(),
                            operands.dtype, operands.rows, operands.channels, parallel);
  });
  return gradients;
}

Tensor gated_layer_norm(const Tensor& x, const Tensor& gate, const Tensor& weight,
                        const Tensor& bias, double eps) {
  return forward(NormStep::kGate, x, gate, weight, bias, eps);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gated_layer_norm_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& gate, const Tensor& weight,
    const Tensor& bias, double eps) {
  const Gradients g = backward(NormStep::kGate, grad_y, x, gate, weight, bias, eps);
  return {g.x, g.other, g.weight, g.bias};
}

Tensor add_layer_norm(const Tensor& residual, const Tensor& x, const Tensor& weight,
                      const Tensor& bias, double eps) {
  return forward(NormStep::kAdd, x, residual, weight, bias, eps);
}

std::tuple<Tensor, Tensor, Tensor> add_layer_norm_backward(const Tensor& grad_y, const Tensor& x,
                                                           const Tensor& weight, const Tensor& bias,
                                                           double eps) {
  const Gradients g = backward(NormStep::kAdd, grad_y, x, x, weight, bias, eps);
  return {g.x, g.weight, g.bias};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("gated_layer_norm", TORCH_BOX(&rsvheat::gated_layer_norm));
  m.impl("_gated_layer_norm_backward", TORCH_BOX(&rsvheat::gated_layer_norm_backward));
  m.impl("add_layer_norm", TORCH_BOX(&rsvheat::add_layer_norm));
  m.impl("_add_layer_norm_backward", TORCH_BOX(&rsvheat::add_layer_norm_backward));
}
