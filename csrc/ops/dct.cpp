// SPDX-License-Identifier: Apache-2.0
#include "core/dct.h"

#include <torch/csrc/stable/library.h>

#include "checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

Tensor transform(const char* op, const Tensor& x_any_strides, bool channels_last, bool inverse) {
  const Layout layout = channels_last ? Layout::kNhwc : Layout::kNchw;
  const Shape shape = shape_of(op, "x", x_any_strides, layout);
  const DType dtype = dtype_of(op, "x", x_any_strides);
  const Tensor x = dense(x_any_strides);
  Tensor y = empty_like_dense(x);
  run_kernel(op, [&](const ParallelFor& parallel) {
    dct2d_cpu(x.const_data_ptr(), y.mutable_data_ptr(), dtype, shape, layout, inverse, parallel);
  });
  return y;
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
