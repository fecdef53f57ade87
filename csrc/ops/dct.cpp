// SPDX-License-Identifier: Apache-2.0
#include "core/dct.h"

#include <torch/csrc/stable/library.h>

#include "operands.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

Tensor transform(const char* op, const Tensor& x, bool channels_last, bool inverse) {
  const TransformOperands operands(op, x, channels_last);
  run_kernel(op, [&](const ParallelFor& parallel) {
    dct2d_cpu(operands.x.const_data_ptr(), operands.y.mutable_data_ptr(), operands.dtype,
              operands.shape, operands.layout, inverse, parallel);
  });
  return operands.y;
}

Tensor dct2d(const Tensor& x, bool channels_last) {
  return transform("dct2d", x, channels_last, /*inverse=*/false);
}

Tensor idct2d(const Tensor& x, bool channels_last) {
  return transform("idct2d", x, channels_last, /*inverse=*/true);
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("dct2d", TORCH_BOX(&rsvheat::dct2d));
  m.impl("idct2d", TORCH_BOX(&rsvheat::idct2d));
}
