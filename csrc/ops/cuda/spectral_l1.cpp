// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/spectral_l1.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "run.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = "spectral_l1";

std::tuple<Tensor, Tensor, Tensor> spectral_l1(const Tensor& pred_any_strides,
                                               const Tensor& target_any_strides, bool with_grad) {
  const Shape shape = shape_of(kOp, "pred", pred_any_strides, Layout::kNchw);
  const DType dtype = dtype_of(kOp, "pred", pred_any_strides);
  check_same_shape(kOp, "target", target_any_strides, "pred", pred_any_strides);
  check_dtype(kOp, "target", target_any_strides, pred_any_strides.scalar_type());
  check_same_device(kOp, "target", target_any_strides, "pred", pred_any_strides);

  const Tensor pred = dense(pred_any_strides);
  const Tensor target = dense(target_any_strides);
  const ScalarType sum_type = parameter_type(pred.scalar_type());
  Tensor spatial_sum = torch::stable::new_empty(pred, {}, sum_type);
  Tensor spectral_sum = torch::stable::new_empty(pred, {}, sum_type);
  Tensor grad = with_grad ? empty_like_dense(pred) : no_tensor(pred);
  run_on_device(
      kOp, pred,
      [&](cudaStream_t stream, size_t* bytes) {
        return spectral_l1_cuda_workspace(shape, dtype, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return spectral_l1_cuda(pred.const_data_ptr(), target.const_data_ptr(),
                                spatial_sum.mutable_data_ptr(), spectral_sum.mutable_data_ptr(),
                                with_grad ? grad.mutable_data_ptr() : nullptr, dtype, shape,
                                workspace, stream);
      });
  return {spatial_sum, spectral_sum, grad};
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("spectral_l1", TORCH_BOX(&rsvheat::spectral_l1));
}
