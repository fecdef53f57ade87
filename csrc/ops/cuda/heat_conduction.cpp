// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/heat_conduction.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "run.h"

namespace rsvheat {
namespace {

constexpr const char* op_name(Conduction kind) {
  return kind == Conduction::kFilter ? "apply_heat_filter" : "heat_conduction";
}

constexpr const char* coefficients_name(Conduction kind) {
  return kind == Conduction::kFilter ? "filter" : "k";
}

Tensor forward(const Tensor& x_any_strides, const Tensor& coefficients, Conduction kind) {
  const char* op = op_name(kind);
  const Shape shape = shape_of(op, "x", x_any_strides, Layout::kNhwc);
  const DType dtype = dtype_of(op, "x", x_any_strides);
  const CoefficientTensor held =
      coefficients_of(op, coefficients_name(kind), coefficients, x_any_strides);
  const Tensor x = dense(x_any_strides);
  Tensor y = empty_like_dense(x);
  run_on_device(
      op, x,
      [&](cudaStream_t stream, size_t* bytes) {
        return heat_conduction_cuda_workspace(shape, dtype, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return heat_conduction_cuda(x.const_data_ptr(), held.view(), kind, y.mutable_data_ptr(),
                                    dtype, shape, workspace, stream);
      });
  return y;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y_any_strides, const Tensor& x_any_strides,
                                    const Tensor& coefficients, bool need_x, bool need_coefficients,
                                    Conduction kind) {
  const char* op = op_name(kind);
  const Shape shape = shape_of(op, "x", x_any_strides, Layout::kNhwc);
  const DType dtype = dtype_of(op, "x", x_any_strides);
  check_same_shape(op, "grad_y", grad_y_any_strides, "x", x_any_strides);
  check_dtype(op, "grad_y", grad_y_any_strides, x_any_strides.scalar_type());
  check_same_device(op, "grad_y", grad_y_any_strides, "x", x_any_strides);
  const CoefficientTensor held =
      coefficients_of(op, coefficients_name(kind), coefficients, x_any_strides);
  const Tensor grad_y = dense(grad_y_any_strides);
  // Without grad_coefficients the values of x are not read.
  const Tensor x = need_coefficients ? dense(x_any_strides) : x_any_strides;
  Tensor grad_x = need_x ? empty_like_dense(grad_y) : no_tensor(grad_y);
  Tensor grad_coefficients =
      need_coefficients ? empty_like_dense(held.tensor) : no_tensor(held.tensor);
  run_on_device(
      op, grad_y,
      [&](cudaStream_t stream, size_t* bytes) {
        return heat_conduction_backward_cuda_workspace(shape, dtype, need_coefficients, stream,
                                                       bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return heat_conduction_backward_cuda(
            grad_y.const_data_ptr(), need_coefficients ? x.const_data_ptr() : nullptr, held.view(),
            kind, need_x ? grad_x.mutable_data_ptr() : nullptr,
            need_coefficients ? grad_coefficients.mutable_data_ptr() : nullptr, dtype, shape,
            workspace, stream);
      });
  return {grad_x, grad_coefficients};
}

Tensor heat_conduction(const Tensor& x, const Tensor& k) {
  return forward(x, k, Conduction::kDiffusivity);
}

std::tuple<Tensor, Tensor> heat_conduction_backward(const Tensor& grad_y, const Tensor& x,
                                                    const Tensor& k, bool need_x, bool need_k) {
  return backward(grad_y, x, k, need_x, need_k, Conduction::kDiffusivity);
}

Tensor apply_heat_filter(const Tensor& x, const Tensor& filter) {
  return forward(x, filter, Conduction::kFilter);
}

std::tuple<Tensor, Tensor> apply_heat_filter_backward(const Tensor& grad_y, const Tensor& x,
                                                      const Tensor& filter, bool need_x,
                                                      bool need_filter) {
  return backward(grad_y, x, filter, need_x, need_filter, Conduction::kFilter);
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("heat_conduction", TORCH_BOX(&rsvheat::heat_conduction));
  m.impl("_heat_conduction_backward", TORCH_BOX(&rsvheat::heat_conduction_backward));
  m.impl("apply_heat_filter", TORCH_BOX(&rsvheat::apply_heat_filter));
  m.impl("_apply_heat_filter_backward", TORCH_BOX(&rsvheat::apply_heat_filter_backward));
}
