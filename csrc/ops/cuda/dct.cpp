// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/dct.h"

#include <torch/csrc/stable/library.h>

#include "run.h"

namespace rsvheat {
namespace {

Tensor transform(const char* op, const Tensor& x_any_strides, bool channels_last, bool inverse) {
  const Layout layout = channels_last ? Layout::kNhwc : Layout::kNchw;
  const Shape shape = shape_of(op, "x", x_any_strides, layout);
  const DType dtype = dtype_of(op, "x", x_any_strides);
  const Tensor x = dense(x_any_strides);
  Tensor y = empty_like_dense(x);
  run_on_device(
      op, x,
      [&](cudaStream_t stream, size_t* bytes) {
        return dct2d_cuda_workspace(shape, dtype, layout, stream, bytes);
      },
      [&](void* workspace, cudaStream_t stream) {
        return dct2d_cuda(x.const_data_ptr(), y.mutable_data_ptr(), dtype, shape, layout, inverse,
                          workspace, stream);
      });
  return y;
}

Tensor dct2d(const Tensor& x, bool channels_last) {
  return transform("dct2d", x, channels_last, false);
}

Tensor idct2d(const Tensor& x, bool channels_last) {
  return transform("idct2d", x, channels_last, true);
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("dct2d", TORCH_BOX(&rsvheat::dct2d));
  m.impl("idct2d", TORCH_BOX(&rsvheat::idct2d));
}
