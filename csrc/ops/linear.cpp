// SPDX-License-Identifier: Apache-2.0
#include "core/linear.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

constexpr const char* kOp = "_lowered_linear";

Tensor lowered_linear(const Tensor& x_any_strides, const Tensor& weight_any_strides,
                      const std::optional<Tensor>& bias, bool gelu) {
  STD_TORCH_CHECK(lowered_linear_available(), kOp, ": the CPU has no products of bfloat16");
  check_dtype(kOp, "x", x_any_strides, ScalarType::BFloat16);
  check_dtype(kOp, "weight", weight_any_strides, ScalarType::Float);
  STD_TORCH_CHECK(x_any_strides.dim() > 0 && weight_any_strides.dim() == 2 &&
                      weight_any_strides.numel() > 0 &&
                      weight_any_strides.size(1) == x_any_strides.size(-1) &&
                      weight_any_strides.size(0) % kLinearBlock == 0 &&
                      weight_any_strides.size(1) % kLinearBlock == 0,
                  kOp, ": weight must be (outputs, inputs) of x ", sizes_to_string(x_any_strides),
                  ", both multiples of ", kLinearBlock, ", but it has shape ",
                  sizes_to_string(weight_any_strides));
  const Tensor x = dense(x_any_strides), weight = dense(weight_any_strides);
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  Tensor terms;
  if (bias.has_value()) {
    check_dtype(kOp, "bias", *bias, ScalarType::Float);
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, kOp,
                    ": bias must be (outputs,) of weight ", sizes_to_string(weight),
                    ", but it has shape ", sizes_to_string(*bias));
    terms = dense(*bias);
  }
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) sizes.push_back(x.size(i));
  sizes.push_back(outputs);
  Tensor y = torch::stable::new_empty(x, {sizes.data(), sizes.size()});
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    lowered_linear_cpu(
        x.const_data_ptr(), static_cast<const float*>(weight.const_data_ptr()),
        bias.has_value() ? static_cast<const float*>(terms.const_data_ptr()) : nullptr, gelu,
        y.mutable_data_ptr(), x.numel() / inputs, inputs, outputs, parallel);
  });
  return y;
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("_lowered_linear", TORCH_BOX(&rsvheat::lowered_linear));
}

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CompositeExplicitAutograd, m) {
  m.impl("_lowered_linear_available", TORCH_BOX(&rsvheat::lowered_linear_available));
}
