// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/frequency_split.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "run.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = "frequency_split";

// radius and angles stay on the device: their values are not checked, as that would synchronise.
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
  Tensor low = empty_like_dense(x);
  Tensor high = empty_like_dense(x);
  run_on_device(
      kOp, x,
      [&](cudaStream_t stream, size_t* bytes) {
        return frequency_split_cuda_workspace(shape, dtype, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return frequency_split_cuda(x.const_data_ptr(), radius.const_data_ptr<double>(),
                                    angles.const_data_ptr<double>(), low.mutable_data_ptr(),
                                    high.mutable_data_ptr(), dtype, shape, workspace, stream);
      });
  return {low, high};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("frequency_split", TORCH_BOX(&rsvheat::frequency_split));
}
