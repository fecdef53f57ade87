// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/spectral_l1.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../operands.h"
#include "run.h"

namespace rsvheat {
namespace {

std::tuple<Tensor, Tensor, Tensor> spectral_l1(const Tensor& pred, const Tensor& target,
                                               bool with_grad) {
  const SpectralL1Operands operands(pred, target, with_grad);
  const ScalarType sum_type = parameter_type(operands.pred.scalar_type());
  Tensor spatial_sum = torch::stable::new_empty(operands.pred, {}, sum_type);
  Tensor spectral_sum = torch::stable::new_empty(operands.pred, {}, sum_type);
  run_on_device(
      SpectralL1Operands::kOp, operands.pred,
      [&](cudaStream_t stream, size_t* bytes) {
        return spectral_l1_cuda_workspace(operands.shape, operands.dtype, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return spectral_l1_cuda(operands.pred.const_data_ptr(), operands.target.const_data_ptr(),
                                spatial_sum.mutable_data_ptr(), spectral_sum.mutable_data_ptr(),
                                operands.grad_data(), operands.dtype, operands.shape, workspace,
                                stream);
      });
  return {spatial_sum, spectral_sum, operands.grad};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("spectral_l1", TORCH_BOX(&rsvheat::spectral_l1));
}
