// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/dct.h"

#include <torch/csrc/stable/library.h>

#include "../operands.h"
#include "run.h"

namespace rsvheat {
namespace {

Tensor transform(const char* op, const Tensor& x, bool channels_last, bool inverse) {
  const TransformOperands operands(op, x, channels_last);
  run_on_device(
      op, operands.x,
      [&](cudaStream_t stream, size_t* bytes) {
        return dct2d_cuda_workspace(operands.shape, operands.dtype, operands.layout, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return dct2d_cuda(operands.x.const_data_ptr(), operands.y.mutable_data_ptr(),
                          operands.dtype, operands.shape, operands.layout, inverse, workspace,
                          stream);
      });
  return operands.y;
}

Tensor dct2d(const Tensor& x, bool channels_last) {
  return transform("dct2d", x, channels_last, false);
}

Tensor idct2d(const Tensor& x, bool channels_last) {
  return transform("idct2d", x, channels_last, true);
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("dct2d", TORCH_BOX(&rsvheat::dct2d));
  m.impl("idct2d", TORCH_BOX(&rsvheat::idct2d));
}
