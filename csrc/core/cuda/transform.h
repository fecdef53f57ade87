// SPDX-License-Identifier: Apache-2.0
// The one operation behind every CUDA operator: an optional forward transform, an optional
// multiplication of the coefficients, an optional inverse transform.
#pragma once

#include <cmath>
#include <cstddef>

#include "../heat_conduction.h"
#include "platform.h"

namespace rsvheat::cuda {

// out = [idct2d] [* filter] [dct2d] (in). `in` and `out` are dense in `layout`, must not overlap,
// and each holds its own storage type: float64 for both or for none. The filter needs kNhwc.
struct Transform {
  const void* in;
  DType in_type;
  void* out;
  DType out_type;
  Shape shape;
  Layout layout;
  bool forward, inverse;                       // at least one
  const Coefficients* coefficients = nullptr;  // null: no filter
  Conduction kind = Conduction::kDiffusivity;
};

inline bool is_double(DType type) { return type == DType::kFloat64; }
inline DType accumulator_type(DType type) { return is_double(type) ? type : DType::kFloat32; }
inline size_t accumulator_size(DType type) { return is_double(type) ? 8 : 4; }
inline size_t storage_size(DType type) {
  return type == DType::kFloat64 ? 8 : type == DType::kFloat32 ? 4 : 2;
}
inline size_t align_up(size_t bytes) { return (bytes + 255) / 256 * 256; }
inline int64_t numel(Shape s) { return s.batch * s.height * s.width * s.channels; }

// Bytes of device memory that run_transform needs for any Transform of this shape, storage and
// layout in one direction, or for round trips. Creates the cuFFT plans it will use, so a later call
// can be captured in a CUDA graph.
Status transform_workspace(Shape shape, DType type, Layout layout, bool round_trip,
                           cudaStream_t stream, size_t* bytes);

// Enqueues the transform on `stream` of the current device. `workspace` is 256-byte aligned device
// memory of at least transform_workspace() bytes.
Status run_transform(const Transform& transform, void* workspace, cudaStream_t stream);

// What the device offers a block; the choice of kernel depends on it.
struct DeviceLimits {
  size_t shared_per_block, shared_per_multiprocessor;
};
Status device_limits(DeviceLimits* limits);

// The paths; each is one .cu file. `*_fits` says whether the path can take the request.

// tile_kernels.cu: float32 arithmetic, H and W from a list, whole image of a few channels in shared
// memory, transforms in registers.
bool tile_fits(Shape shape, DType type, DeviceLimits limits);
Status run_tile(const Transform& transform, DeviceLimits limits, cudaStream_t stream);

// square_tiles.h, square_tiles*.cu: as tile_kernels.cu, round trips with a filter on images of the
// encoders' sizes whose operands allow accesses of 16 bytes (square_operands).
bool square_tile_fits(const Transform& transform, DeviceLimits limits);
Status run_square_tile(const Transform& transform, cudaStream_t stream);

// The same for gradients. Blocks add up products of coefficients over the images of a slice:
// parts has (count, groups, H, W, group) elements, which make up whole waves of blocks.
struct SquareSlices {
  int64_t count, images, groups;
  int group;
};
bool square_gradients_fit(Shape shape, DType type, DeviceLimits limits);
SquareSlices square_slices(Shape shape, DType type);
Status run_square_gradients(const void* grad_y, const void* x, const Coefficients& coefficients,
                            Conduction kind, void* grad_x, float* parts, DType type, Shape shape,
                            cudaStream_t stream);
// Whether operands may take these kernels.
bool square_operands(const void* in, const void* out, const Coefficients& coefficients);

// matrix_kernels.cu: any H, W up to kMaxMatrixSize, same tiling, matrix products on the shared
// tile.
inline constexpr int64_t kMaxMatrixSize = 256;
bool matrix_fits(Shape shape, DType type, DeviceLimits limits);
Status run_matrix(const Transform& transform, DeviceLimits limits, cudaStream_t stream);

// One axis of a pass-by-pass transform: data is [outer][size][inner]. With a filter, the axis is
// the height and inner index j is (width j / channels, channel j % channels). Neighbours on the
// axis are a pitch apart: `inner`, or more if inner is a chunk of what lies there.
struct AxisPass {
  const void* in;
  DType in_type;
  void* out;
  DType out_type;
  int64_t outer, size, inner, in_pitch, out_pitch;
  bool forward, inverse;
  double scale0, scale;  // multiply coefficient 0, and the others
  const Coefficients* coefficients;
  Conduction kind;
  int64_t width, channels;
};
// line_kernel.h, line_kernels*.cu: four threads a line, transforms in registers, sizes from a list.
bool is_line_size(int64_t size, DType type);
bool line_fits(const AxisPass& pass, DType type);
Status run_line_pass(const AxisPass& pass, cudaStream_t stream);
// matrix_kernels.cu: any size up to kMaxMatrixSize, no other pitch than `inner`.
Status run_matrix_pass(const AxisPass& pass, DType type, DeviceLimits limits, cudaStream_t stream);

// fft_transform.cu: cuFFT, any size and layout.
Status fft_workspace(Shape shape, DType type, cudaStream_t stream, size_t* bytes);
Status run_fft(const Transform& transform, void* workspace, cudaStream_t stream);

// Channels a block takes (a power of two) for a tile of `bytes_per_channel`: at least two blocks a
// multiprocessor if that leaves four channels, else one; 0 if four channels do not fit.
int channel_group(size_t bytes_per_channel, size_t fixed_bytes, int64_t channels,
                  DeviceLimits limits);

// Threads for a block that loops over `items`: as few rounds as kMaxThreads allows, evenly filled.
int block_threads(int64_t items);

// The orthonormal scale of coefficient 0 and of the others: once for one direction, its square for
// a round trip.
inline double scale_of(int64_t size, bool first, bool both) {
  const double square = (first ? 1.0 : 2.0) / double(size);
  return both ? square : sqrt(square);
}

}  // namespace rsvheat::cuda
