// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/stable/library.h>

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

NormGradients backward(NormStep step, const Tensor& grad_y, const Tensor& x, const Tensor& other,
                       const Tensor& weight, const Tensor& bias, double eps) {
  const char* op = op_name(step);
  const NormOperands operands(op, x, weight, bias, eps);
  const Tensor second = like_x(op, other_name(step), other, x);
  const NormGradients gradients(step, grad_y, x, other, operands.weight, operands.bias);
  run_kernel(op, [&](const ParallelFor& parallel) {
    layer_norm_backward_cpu(step, gradients.y.const_data_ptr(), operands.x.const_data_ptr(),
                            second.const_data_ptr(), operands.norm(),
                            gradients.x.mutable_data_ptr(), gradients.other.mutable_data_ptr(),
                            gradients.weight.mutable_data_ptr(), gradients.bias.mutable_data_ptr(),
                            operands.dtype, operands.rows, operands.channels, parallel);
  });
  return gradients;
}

using Ops = NormOps<forward, backward>;

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  using rsvheat::Ops;
  m.impl("gated_layer_norm", TORCH_BOX(&Ops::gated));
  m.impl("_gated_layer_norm_backward", TORCH_BOX(&Ops::gated_backward));
  m.impl("add_layer_norm", TORCH_BOX(&Ops::add));
  m.impl("_add_layer_norm_backward", TORCH_BOX(&Ops::add_backward));
}
