// SPDX-License-Identifier: Apache-2.0
#include "core/frequency_split.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = "frequency_split";

std::tuple<Tensor, Tensor> frequency_split(const Tensor& x_any_strides,
                                           const Tensor& radius_any_strides,
                                           const Tensor& angles_any_strides) {
  const Shape shape = shape_of(kOp, "x", x_any_strides, Layout::kNchw);
  const DType dtype = dtype_of(kOp, "x", x_any_strides);
  STD_TORCH_CHECK(radius_any_strides.dim() == 1 && radius_any_strides.size(0) == shape.batch, kOp,
                  ": radius must be (B,) = (", shape.batch, ",), but it has shape ",
                  sizes_to_string(radius_any_strides));
  STD_TORCH_CHECK(angles_any_strides.dim() == 2 && angles_any_strides.size(0) == shape.batch &&
                      angles_any_strides.size(1) == 2,
                  kOp, ": angles must be (B, 2) = (", shape.batch, ", 2), but it has shape ",
                  sizes_to_string(angles_any_strides));
  check_dtype(kOp, "radius", radius_any_strides, ScalarType::Double);
  check_dtype(kOp, "angles", angles_any_strides, ScalarType::Double);
  check_same_device(kOp, "radius", radius_any_strides, "x", x_any_strides);
  check_same_device(kOp, "angles", angles_any_strides, "x", x_any_strides);

  const Tensor x = dense(x_any_strides);
  const Tensor radius = dense(radius_any_strides);
  const Tensor angles = dense(angles_any_strides);
  const double* r = radius.const_data_ptr<double>();
  const double* a = angles.const_data_ptr<double>();
  for (int64_t b = 0; b < shape.batch; ++b) {
    // Written so that NaN fails.
    STD_TORCH_CHECK(r[b] >= 0, kOp, ": radius must be >= 0, but radius[", b, "] is ", r[b]);
    STD_TORCH_CHECK(
        0 <= a[2 * b] && a[2 * b] <= a[2 * b + 1] && a[2 * b + 1] <= 90, kOp,
        ": angles must hold 0 <= angles[b, 0] <= angles[b, 1] <= 90 degrees, but angles[", b,
        "] is (", a[2 * b], ", ", a[2 * b + 1], ")");
  }

  Tensor low = empty_like_dense(x);
  Tensor high = empty_like_dense(x);
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    frequency_split_cpu(x.const_data_ptr(), r, a, low.mutable_data_ptr(), high.mutable_data_ptr(),
                        dtype, shape, parallel);
  });
  return {low, high};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("frequency_split", TORCH_BOX(&rsvheat::frequency_split));
}
