// SPDX-License-Identifier: Apache-2.0
#include "core/spectral_l1.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = "spectral_l1";

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

std::tuple<Tensor, Tensor, Tensor> spectral_l1(const Tensor& pred_any_strides,
                                               const Tensor& target_any_strides, bool with_grad) {
  const Shape shape = shape_of(kOp, "pred", pred_any_strides, Layout::kNchw);
  const DType dtype = dtype_of(kOp, "pred", pred_any_strides);
  check_same_shape(kOp, "target", target_any_strides, "pred", pred_any_strides);
  check_dtype(kOp, "target", target_any_strides, pred_any_strides.scalar_type());
  check_same_device(kOp, "target", target_any_strides, "pred", pred_any_strides);

  const Tensor pred = dense(pred_any_strides);
  const Tensor target = dense(target_any_strides);
  Tensor grad = with_grad ? empty_like_dense(pred) : no_tensor(pred);
  double sums[2] = {0.0, 0.0};
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    spectral_l1_cpu(pred.const_data_ptr(), target.const_data_ptr(), sums,
                    with_grad ? grad.mutable_data_ptr() : nullptr, dtype, shape, parallel);
  });
  return {scalar(sums[0], pred), scalar(sums[1], pred), grad};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("spectral_l1", TORCH_BOX(&rsvheat::spectral_l1));
}
