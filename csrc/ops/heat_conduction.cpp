// SPDX-License-Identifier: Apache-2.0
#include "core/heat_conduction.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "operands.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

Tensor forward(const Tensor& x, const Tensor& coefficients, Conduction kind) {
  const ConductionOperands operands(x, coefficients, kind);
  const bool valid = run_kernel(operands.op, [&](const ParallelFor& parallel) {
    return heat_conduction_cpu(operands.x.const_data_ptr(), operands.coefficients.view(), kind,
                               operands.y.mutable_data_ptr(), operands.dtype, operands.shape,
                               parallel);
  });
  STD_TORCH_CHECK(valid, operands.op,
                  ": k holds a negative or NaN value; thermal diffusivity must be >= 0");
  return operands.y;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x,
                                    const Tensor& coefficients, bool need_x, bool need_coefficients,
                                    Conduction kind) {
  const ConductionGradients gradients(grad_y, x, coefficients, need_x, need_coefficients, kind);
  run_kernel(gradients.op, [&](const ParallelFor& parallel) {
    heat_conduction_backward_cpu(gradients.grad_y.const_data_ptr(), gradients.x_data(),
                                 gradients.coefficients.view(), kind, gradients.grad_x_data(),
                                 gradients.grad_coefficients_data(), gradients.dtype,
                                 gradients.shape, parallel);
  });
  return {gradients.grad_x, gradients.grad_coefficients};
}

Tensor heat_conduction(const Tensor& x, const Tensor& k) {
  return forward(x, k, Conduction::kDiffusivity);
}

std::tuple<Tensor, Tensor> heat_conduction_backward(const Tensor& grad_y, const Tensor& x,
                                                    const Tensor& k, bool need_x, bool need_k) {
  return backward(grad_y, x, k, need_x, need_k, Conduction::kDiffusivity);
}

Tensor apply_heat_filter(const Tensor& x, const Tensor& filter) {
  return forward(x, filter, Conduction::kFilter);
}

std::tuple<Tensor, Tensor> apply_heat_filter_backward(const Tensor& grad_y, const Tensor& x,
                                                      const Tensor& filter, bool need_x,
                                                      bool need_filter) {
  return backward(grad_y, x, filter, need_x, need_filter, Conduction::kFilter);
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("heat_conduction", TORCH_BOX(&rsvheat::heat_conduction));
  m.impl("_heat_conduction_backward", TORCH_BOX(&rsvheat::heat_conduction_backward));
  m.impl("apply_heat_filter", TORCH_BOX(&rsvheat::apply_heat_filter));
  m.impl("_apply_heat_filter_backward", TORCH_BOX(&rsvheat::apply_heat_filter_backward));
}
