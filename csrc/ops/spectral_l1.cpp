// SPDX-License-Identifier: Apache-2.0
#include "core/spectral_l1.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "operands.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

Tensor scalar(double value, const Tensor& like) {
  const ScalarType type = parameter_type(like.scalar_type());
  Tensor result = torch::stable::new_empty(like, {}, type);
  if (type == ScalarType::Double) {
    *result.mutable_data_ptr<double>() = value;
  } else {
    *result.mutable_data_ptr<float>() = static_cast<float>(value);
  }
  return result;
}

std::tuple<Tensor, Tensor, Tensor> spectral_l1(const Tensor& pred, const Tensor& target,
                                               bool with_grad) {
  const SpectralL1Operands operands(pred, target, with_grad);
  double sums[2] = {0.0, 0.0};
  run_kernel(SpectralL1Operands::kOp, [&](const ParallelFor& parallel) {
    spectral_l1_cpu(operands.pred.const_data_ptr(), operands.target.const_data_ptr(), sums,
                    operands.grad_data(), operands.dtype, operands.shape, parallel);
  });
  return {scalar(sums[0], operands.pred), scalar(sums[1], operands.pred), operands.grad};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("spectral_l1", TORCH_BOX(&rsvheat::spectral_l1));
}
