// SPDX-License-Identifier: Apache-2.0
#include "square_tiles.h"

#include <algorithm>

namespace rsvheat::cuda {
namespace {

bool is_square_size(int64_t size) {
  return SmallSquares::contains(size) || MediumSquares::contains(size) ||
         LargeSquares::contains(size);
}

size_t shared_bytes(int64_t size, SquareBlock block, bool gradients) {
  return (gradients ? 2 : 1) * sizeof(float) * size * (size | 1) * block.group;
}

bool fits(Shape shape, DType type, bool gradients, DeviceLimits limits) {
  if (is_double(type) || shape.height != shape.width || !is_square_size(shape.height)) return false;
  const int bytes = int(storage_size(type));
  const SquareBlock block = square_block(int(shape.height), bytes, gradients);
  return shape.channels * bytes % 16 == 0 &&
         shared_bytes(shape.height, block, gradients) <= limits.shared_per_block;
}

Status run(const SquareParams& p, int64_t size, cudaStream_t stream) {
  if (SmallSquares::contains(size)) return run_small_square(p, int(size), stream);
  if (MediumSquares::contains(size)) return run_medium_square(p, int(size), stream);
  return run_large_square(p, int(size), stream);
}

SquareParams square_params(const void* in, void* out, DType type, Shape shape, int group,
                           const Coefficients& coefficients, Conduction kind) {
  SquareParams p{};
  p.in = static_cast<const unsigned char*>(in);
  p.out = static_cast<unsigned char*>(out);
  p.type = type;
  p.batch = shape.batch;
  p.channels = shape.channels;
  p.groups = int((shape.channels + group - 1) / group);
  p.filter = make_filter<float>(&coefficients, kind, shape.height, shape.width);
  return p;
}

}  // namespace

bool square_tile_fits(const Transform& t, DeviceLimits limits) {
  return t.layout == Layout::kNhwc && t.forward && t.inverse && t.coefficients &&
         t.in_type == t.out_type && fits(t.shape, t.in_type, false, limits) &&
         square_operands(t.in, t.out, *t.coefficients);
}

Status run_square_tile(const Transform& t, cudaStream_t stream) {
  const int size = int(t.shape.height);
  const int group = square_block(size, int(storage_size(t.in_type)), false).group;
  return run(square_params(t.in, t.out, t.in_type, t.shape, group, *t.coefficients, t.kind), size,
             stream);
}

bool square_gradients_fit(Shape shape, DType type, DeviceLimits limits) {
  return fits(shape, type, true, limits);
}

SquareSlices square_slices(Shape shape, DType type) {
  const SquareBlock block =
      square_block(int(shape.height), int(storage_size(type)), /*gradients=*/true);
  SquareSlices s{};
  s.group = block.group;
  s.groups = (shape.channels + s.group - 1) / s.group;
  const int64_t most =
      std::clamp<int64_t>(kMultiprocessors * block.blocks / s.groups, 1, shape.batch);
  s.images = (shape.batch + most - 1) / most;
  s.count = (shape.batch + s.images - 1) / s.images;
  return s;
}

Status run_square_gradients(const void* grad_y, const void* x, const Coefficients& coefficients,
                            Conduction kind, void* grad_x, float* parts, DType type, Shape shape,
                            cudaStream_t stream) {
  const SquareSlices slices = square_slices(shape, type);
  SquareParams p = square_params(grad_y, grad_x, type, shape, slices.group, coefficients, kind);
  p.x = static_cast<const unsigned char*>(x);
  p.parts = parts;
  p.slice_images = slices.images;
  return run(p, shape.height, stream);
}

bool square_operands(const void* in, const void* out, const Coefficients& coefficients) {
  // The kernels multiply strides of coefficients in 32 bits.
  constexpr int64_t kLargestStride = int64_t(1) << 29;
  return is_aligned(in) && is_aligned(out) && coefficients.stride_h < kLargestStride;
}

}  // namespace rsvheat::cuda
