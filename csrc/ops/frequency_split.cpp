// SPDX-License-Identifier: Apache-2.0
#include "core/frequency_split.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "operands.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = SplitOperands::kOp;

std::tuple<Tensor, Tensor> frequency_split(const Tensor& x, const Tensor& radius,
                                           const Tensor& angles) {
  const SplitOperands operands(x, radius, angles);
  const double* r = operands.radius.const_data_ptr<double>();
  const double* a = operands.angles.const_data_ptr<double>();
  for (int64_t b = 0; b < operands.shape.batch; ++b) {
    // Written so that NaN fails.
    STD_TORCH_CHECK(r[b] >= 0, kOp, ": radius must be >= 0, but radius[", b, "] is ", r[b]);
    STD_TORCH_CHECK(
        0 <= a[2 * b] && a[2 * b] <= a[2 * b + 1] && a[2 * b + 1] <= 90, kOp,
        ": angles must hold 0 <= angles[b, 0] <= angles[b, 1] <= 90 degrees, but angles[", b,
        "] is (", a[2 * b], ", ", a[2 * b + 1], ")");
  }
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    frequency_split_cpu(operands.x.const_data_ptr(), r, a, operands.low.mutable_data_ptr(),
                        operands.high.mutable_data_ptr(), operands.dtype, operands.shape, parallel);
  });
  return {operands.low, operands.high};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("frequency_split", TORCH_BOX(&rsvheat::frequency_split));
}
