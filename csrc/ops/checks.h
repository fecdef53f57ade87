// SPDX-License-Identifier: Apache-2.0
// The second net under the checks of rsvheat/ops, for callers of torch.ops.rsvheat, and the
// conversion of what passed into the core's types. Every message starts with the op's name.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <sstream>
#include <string>

#include "core/types.h"

namespace rsvheat {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string sizes_to_string(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << ')';
  return text.str();
}

inline DType dtype_of(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, op, ": ", name,
                      " must be float32, float64, bfloat16 or float16, but it is ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

// The dtype of coefficients, sums and parameters that go with a tensor of dtype `type`.
inline ScalarType parameter_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor,
                        ScalarType expected) {
  STD_TORCH_CHECK(tensor.scalar_type() == expected, op, ": ", name, " must be of dtype ",
                  torch::headeronly::toString(expected), ", but it is ",
                  torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_same_device(const char* op, const char* name, const Tensor& tensor,
                              const char* like_name, const Tensor& like) {
  STD_TORCH_CHECK(tensor.device() == like.device(), op, ": ", name,
                  " must be on the same device as ", like_name);
}

inline void check_same_shape(const char* op, const char* name, const Tensor& tensor,
                             const char* like_name, const Tensor& like) {
  bool same = tensor.dim() == like.dim();
  for (int64_t i = 0; same && i < like.dim(); ++i) same = tensor.size(i) == like.size(i);
  STD_TORCH_CHECK(same, op, ": ", name, " must have the shape of ", like_name, ", ",
                  sizes_to_string(like), ", but it has ", sizes_to_string(tensor));
}

// `tensor` is (B, H, W, C) or (B, C, H, W).
inline Shape shape_of(const char* op, const char* name, const Tensor& tensor, Layout layout) {
  const bool nhwc = layout == Layout::kNhwc;
  STD_TORCH_CHECK(tensor.dim() == 4, op, ": ", name, " must be ",
                  nhwc ? "(B, H, W, C)" : "(B, C, H, W)", ", but it has shape ",
                  sizes_to_string(tensor));
  const Shape shape = nhwc ? Shape{tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)}
                           : Shape{tensor.size(0), tensor.size(2), tensor.size(3), tensor.size(1)};
  STD_TORCH_CHECK(shape.height <= kMaxTransformSize && shape.width <= kMaxTransformSize, op,
                  ": height and width of ", name, " must be at most ", kMaxTransformSize,
                  ", but it has shape ", sizes_to_string(tensor));
  return shape;
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor empty_like_dense(const Tensor& tensor) {
  return torch::stable::new_empty(tensor, tensor.sizes());
}

// What an op returns for an output that was not asked for.
inline Tensor no_tensor(const Tensor& like) {
  constexpr std::array<int64_t, 1> kSizes{0};
  return torch::stable::new_empty(like, {kSizes.data(), kSizes.size()});
}

// The coefficients of `x` (B, H, W, C) held by `tensor` (H, W, C), which may be an expanded view.
// Owns the tensor, as strides that the core does not take are copied away.
struct CoefficientTensor {
  Tensor tensor;

  Coefficients view() const {
    // The stride of an axis of one element is arbitrary.
    const auto stride = [this](int64_t axis) {
      return tensor.size(axis) == 1 ? 0 : tensor.stride(axis);
    };
    return {tensor.const_data_ptr(), stride(0), stride(1), stride(2)};
  }
};

inline CoefficientTensor coefficients_of(const char* op, const char* name, const Tensor& tensor,
                                         const Tensor& x) {
  STD_TORCH_CHECK(tensor.dim() == 3 && tensor.size(0) == x.size(1) && tensor.size(1) == x.size(2) &&
                      tensor.size(2) == x.size(3),
                  op, ": ", name, " must be (H, W, C) for x ", sizes_to_string(x),
                  ", but it has shape ", sizes_to_string(tensor));
  check_dtype(op, name, tensor, parameter_type(x.scalar_type()));
  check_same_device(op, name, tensor, "x", x);
  const bool takes_strides = tensor.size(2) == 1 || tensor.stride(2) <= 1;
  return {takes_strides ? tensor : torch::stable::contiguous(tensor)};
}

// A parameter of one value a channel of `x`, whose channels are its last axis.
inline Tensor channel_parameter(const char* op, const char* name, const Tensor& tensor,
                                const Tensor& x) {
  STD_TORCH_CHECK(x.dim() > 0 && tensor.dim() == 1 && tensor.size(0) == x.size(-1), op, ": ", name,
                  " must be (C,) for x ", sizes_to_string(x), ", but it has shape ",
                  sizes_to_string(tensor));
  check_dtype(op, name, tensor, parameter_type(x.scalar_type()));
  check_same_device(op, name, tensor, "x", x);
  return dense(tensor);
}

}  // namespace rsvheat
