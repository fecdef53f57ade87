// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/heat_conduction.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../operands.h"
#include "run.h"

namespace rsvheat {
namespace {

Tensor forward(const Tensor& x, const Tensor& coefficients, Conduction kind) {
  const ConductionOperands operands(x, coefficients, kind);
  run_on_device(
      operands.op, operands.x,
      [&](cudaStream_t stream, size_t* bytes) {
        return heat_conduction_cuda_workspace(operands.shape, operands.dtype, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return heat_conduction_cuda(operands.x.const_data_ptr(), operands.coefficients.view(), kind,
                                    operands.y.mutable_data_ptr(), operands.dtype, operands.shape,
                                    workspace, stream);
      });
  return operands.y;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x,
                                    const Tensor& coefficients, bool need_x, bool need_coefficients,
                                    Conduction kind) {
  const ConductionGradients gradients(grad_y, x, coefficients, need_x, need_coefficients, kind);
  const bool vectors =
      heat_conduction_vectors(gradients.grad_y.const_data_ptr(), gradients.x_data(),
                              gradients.coefficients.view(), gradients.grad_x_data());
  run_on_device(
      gradients.op, gradients.grad_y,
      [&](cudaStream_t stream, size_t* bytes) {
        return heat_conduction_backward_cuda_workspace(gradients.shape, gradients.dtype,
                                                       need_coefficients, vectors, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return heat_conduction_backward_cuda(
            gradients.grad_y.const_data_ptr(), gradients.x_data(), gradients.coefficients.view(),
            kind, gradients.grad_x_data(), gradients.grad_coefficients_data(), gradients.dtype,
            gradients.shape, workspace, stream);
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

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("heat_conduction", TORCH_BOX(&rsvheat::heat_conduction));
  m.impl("_heat_conduction_backward", TORCH_BOX(&rsvheat::heat_conduction_backward));
  m.impl("apply_heat_filter", TORCH_BOX(&rsvheat::apply_heat_filter));
  m.impl("_apply_heat_filter_backward", TORCH_BOX(&rsvheat::apply_heat_filter_backward));
}
