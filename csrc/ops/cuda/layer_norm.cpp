// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/layer_norm.h"

#include <torch/csrc/stable/library.h>

#include "../fused_operands.h"
#include "run.h"

namespace rsvheat {
namespace {

// The distance of rows of channels in elements; -1 if they are not equally spaced or not dense.
int64_t row_stride(const Tensor& tensor) {
  int64_t stride = -1, rows = 1;
  for (int64_t axis = tensor.dim() - 1; axis >= 0; --axis) {
    if (tensor.size(axis) == 1) continue;
    if (axis == tensor.dim() - 1) {
      if (tensor.stride(axis) != 1) return -1;
    } else {
      if (stride < 0) stride = tensor.stride(axis);
      if (tensor.stride(axis) != stride * rows) return -1;
      rows *= tensor.size(axis);
    }
  }
  // A single row, or rows that overlap: those of an expanded tensor.
  if (stride < 0) return tensor.size(-1);
  return stride >= tensor.size(-1) ? stride : -1;
}

// Rows that the kernels take as they are, as halves of the channels of one product, or a copy.
struct Rows {
  Tensor tensor;
  int64_t stride;
  explicit Rows(const Tensor& any) : tensor(any), stride(any.dim() == 0 ? 1 : row_stride(any)) {
    if (stride >= 0) return;
    tensor = torch::stable::contiguous(any);
    stride = tensor.size(-1);
  }
};

struct Operands {
  Rows x, other;
  Tensor weight, bias;
  double eps;
  DType dtype, other_dtype;
  NormRows rows;

  // The other operand may be of a wider type than x where they are added.
  Operands(NormStep step, const Tensor& x_any, const Tensor& other_any, const Tensor& weight,
           const Tensor& bias, double eps)
      : x(x_any),
        other(other_any),
        weight(channel_parameter(op_name(step), "weight", weight, x_any)),
        bias(channel_parameter(op_name(step), "bias", bias, x_any)),
        eps(eps),
        dtype(dtype_of(op_name(step), "x", x_any)),
        other_dtype(dtype_of(op_name(step), other_name(step), other_any)) {
    const char* op = op_name(step);
    check_same_shape(op, other_name(step), other_any, "x", x_any);
    check_same_device(op, other_name(step), other_any, "x", x_any);
    const bool wider = step == NormStep::kAdd && other_dtype == DType::kFloat32 &&
                       (dtype == DType::kBFloat16 || dtype == DType::kFloat16);
    if (!wider) check_dtype(op, other_name(step), other_any, x_any.scalar_type());
    const int64_t channels = x_any.size(-1);
    rows = {channels == 0 ? 0 : x_any.numel() / channels, channels, x.stride, other.stride};
  }

  NormParameters norm() const { return {weight.const_data_ptr(), bias.const_data_ptr(), eps}; }
};

Tensor forward(NormStep step, const Tensor& x, const Tensor& other, const Tensor& weight,
               const Tensor& bias, double eps) {
  const Operands o(step, x, other, weight, bias, eps);
  Tensor y = empty_like_dense(other);
  run_without_workspace(op_name(step), x, [&](cudaStream_t stream) {
    return layer_norm_cuda(step, o.x.tensor.const_data_ptr(), o.dtype,
                           o.other.tensor.const_data_ptr(), o.other_dtype, o.norm(),
                           y.mutable_data_ptr(), o.rows, stream);
  });
  return y;
}

NormGradients backward(NormStep step, const Tensor& grad_y, const Tensor& x, const Tensor& other,
                       const Tensor& weight, const Tensor& bias, double eps) {
  const char* op = op_name(step);
  const Operands o(step, x, other, weight, bias, eps);
  const NormGradients gradients(step, grad_y, x, other, o.weight, o.bias);
  run_on_device(
      op, x,
      [&](cudaStream_t, size_t* bytes) {
        *bytes = layer_norm_backward_cuda_workspace(o.dtype, o.rows.rows, o.rows.channels);
        return Status{};
      },
      [&](void* workspace, cudaStream_t stream) {
        return layer_norm_backward_cuda(
            step, gradients.y.const_data_ptr(), o.x.tensor.const_data_ptr(), o.dtype,
            o.other.tensor.const_data_ptr(), o.other_dtype, o.norm(),
            gradients.x.mutable_data_ptr(), gradients.other.mutable_data_ptr(),
            gradients.weight.mutable_data_ptr(), gradients.bias.mutable_data_ptr(), o.rows,
            workspace, stream);
      });
  return gradients;
}

// The result takes the place of the residual, which is contiguous.
void add_into(Tensor residual, const Tensor& x, const Tensor& weight, const Tensor& bias,
              double eps) {
  constexpr NormStep kStep = NormStep::kAdd;
  STD_TORCH_CHECK(residual.is_contiguous(), op_name(kStep), ": residual must be contiguous");
  const Operands o(kStep, x, residual, weight, bias, eps);
  run_without_workspace(op_name(kStep), x, [&](cudaStream_t stream) {
    return layer_norm_cuda(kStep, o.x.tensor.const_data_ptr(), o.dtype, residual.const_data_ptr(),
                           o.other_dtype, o.norm(), residual.mutable_data_ptr(), o.rows, stream);
  });
}

using Ops = NormOps<forward, backward>;

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  using rsvheat::Ops;
  m.impl("gated_layer_norm", TORCH_BOX(&Ops::gated));
  m.impl("_gated_layer_norm_backward", TORCH_BOX(&Ops::gated_backward));
  m.impl("add_layer_norm", TORCH_BOX(&Ops::add));
  m.impl("_add_layer_norm_into", TORCH_BOX(&rsvheat::add_into));
  m.impl("_add_layer_norm_backward", TORCH_BOX(&Ops::add_backward));
}
