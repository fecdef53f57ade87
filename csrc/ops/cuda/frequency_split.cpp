// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/frequency_split.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../operands.h"
#include "run.h"

namespace rsvheat {
namespace {

// radius and angles stay on the device: their values are not checked, as that would synchronize.
std::tuple<Tensor, Tensor> frequency_split(const Tensor& x, const Tensor& radius,
                                           const Tensor& angles) {
  const SplitOperands operands(x, radius, angles);
  run_on_device(
      SplitOperands::kOp, operands.x,
      [&](cudaStream_t stream, size_t* bytes) {
        return frequency_split_cuda_workspace(operands.shape, operands.dtype, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return frequency_split_cuda(
            operands.x.const_data_ptr(), operands.radius.const_data_ptr<double>(),
            operands.angles.const_data_ptr<double>(), operands.low.mutable_data_ptr(),
            operands.high.mutable_data_ptr(), operands.dtype, operands.shape, workspace, stream);
      });
  return {operands.low, operands.high};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("frequency_split", TORCH_BOX(&rsvheat::frequency_split));
}
