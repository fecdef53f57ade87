// SPDX-License-Identifier: Apache-2.0
// Whole images of a few channels in shared memory, every line transformed in one thread's
// registers. A block reads rows straight from global memory into registers (one load a point, all
// in flight together), transforms them, and parks the coefficients in the tile; one barrier later
// each thread owns a column: forward, filter, inverse without leaving registers; one more barrier,
// and the rows go back the same way. So each element crosses shared memory four times and global
// memory twice.
#include "codelets.h"
#include "filter.h"
#include "storage.h"
#include "transform.h"

namespace rsvheat::cuda {
namespace {

// Sizes by register need: a kernel's registers are those of its largest size.
using SmallSizes = SizeList<4, 5, 6, 7, 8, 10, 12, 14, 16>;
using MediumSizes = SizeList<18, 20, 24, 25, 28, 30, 32>;
using LargeSizes = SizeList<36, 40, 48, 50, 56, 60, 64>;

struct TileParams {
  const void* in;
  void* out;
  DType in_type, out_type;
  int height, width;
  int64_t channels, groups;
  int group;  // channels of a block, a power of two
  int pitch;  // tile elements from one row to the next
  bool forward, inverse;
  float scale_h0, scale_h, scale_w0, scale_w;
  Filter<float> filter;
};

// Where a block stands: its image's first element at its first channel, and its channel count.
struct TileBlock {
  int64_t base, first_channel;
  int active;
};

template <int N>
RSVHEAT_DEVICE void rows_forward(const TileParams& p, const TileBlock& block, float* tile) {
  for (int item = threadIdx.x; item < p.height * p.group; item += blockDim.x) {
    const int c = item & (p.group - 1), h = item / p.group;
    if (c >= block.active) continue;
    float v[N];
    load_line<N>(p.in, p.in_type, block.base + int64_t(h) * N * p.channels + c, p.channels, v);
    dct2<N>(v);
    float* row = tile + h * p.pitch + c;
    RSVHEAT_UNROLL
    for (int w = 0; w < N; ++w) row[w * p.group] = v[w];
  }
}

template <int N>
RSVHEAT_DEVICE void columns(const TileParams& p, const TileBlock& block, float* tile) {
  const int64_t row_stride = p.width * p.channels;
  for (int item = threadIdx.x; item < p.width * p.group; item += blockDim.x) {
    const int c = item & (p.group - 1), w = item / p.group;
    if (c >= block.active) continue;
    const int64_t offset = block.base + w * p.channels + c;
    float* column = tile + item;
    float v[N];
    if (p.forward) {
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h) v[h] = column[h * p.pitch];
      dct2<N>(v);
    } else {
      load_line<N>(p.in, p.in_type, offset, row_stride, v);
    }
    const float scale_w = w == 0 ? p.scale_w0 : p.scale_w;
    RSVHEAT_UNROLL
    for (int h = 0; h < N; ++h) v[h] *= scale_w * (h == 0 ? p.scale_h0 : p.scale_h);
    if (p.filter.data) {
      const float* coefficient = p.filter.at(0, w, block.first_channel + c);
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h) v[h] *= p.filter.factor(coefficient[h * p.filter.stride_h], h, w);
    }
    if (p.inverse) {
      dct3<N>(v);
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h) column[h * p.pitch] = v[h];
    } else {
      store_line<N>(p.out, p.out_type, offset, row_stride, v);
    }
  }
}

template <int N>
RSVHEAT_DEVICE void rows_inverse(const TileParams& p, const TileBlock& block, const float* tile) {
  for (int item = threadIdx.x; item < p.height * p.group; item += blockDim.x) {
    const int c = item & (p.group - 1), h = item / p.group;
    if (c >= block.active) continue;
    const float* row = tile + h * p.pitch + c;
    float v[N];
    RSVHEAT_UNROLL
    for (int w = 0; w < N; ++w) v[w] = row[w * p.group];
    dct3<N>(v);
    store_line<N>(p.out, p.out_type, block.base + int64_t(h) * N * p.channels + c, p.channels, v);
  }
}

template <typename Heights, typename Widths>
RSVHEAT_DEVICE void transform_tile(const TileParams& p) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  float* tile = reinterpret_cast<float*>(shared);
  const int64_t image = blockIdx.x / p.groups;
  TileBlock block;
  block.first_channel = (blockIdx.x % p.groups) * p.group;
  block.base = image * p.height * p.width * p.channels + block.first_channel;
  const int64_t left = p.channels - block.first_channel;
  block.active = left < p.group ? int(left) : p.group;

  if (p.forward) {
    Widths::visit(p.width, [&](auto n) { rows_forward<decltype(n)::value>(p, block, tile); });
    __syncthreads();
  }
  Heights::visit(p.height, [&](auto n) { columns<decltype(n)::value>(p, block, tile); });
  if (p.inverse) {
    __syncthreads();
    Widths::visit(p.width, [&](auto n) { rows_inverse<decltype(n)::value>(p, block, tile); });
  }
}

// Blocks a multiprocessor: as many as leave each thread the registers of its codelets.
__global__ void __launch_bounds__(kMaxThreads, 4) small_tile_kernel(TileParams p) {
  transform_tile<SmallSizes, SmallSizes>(p);
}
__global__ void __launch_bounds__(kMaxThreads, 3) medium_tile_kernel(TileParams p) {
  transform_tile<MediumSizes, MediumSizes>(p);
}
__global__ void __launch_bounds__(kMaxThreads, 2) large_tile_kernel(TileParams p) {
  transform_tile<LargeSizes, LargeSizes>(p);
}

// An odd row pitch (in channel groups) spreads the rows that one warp writes over the banks.
size_t bytes_per_channel(Shape shape) { return shape.height * (shape.width | 1) * sizeof(float); }

template <typename List>
bool holds(Shape shape) {
  return List::contains(shape.height) && List::contains(shape.width);
}

}  // namespace

bool tile_fits(Shape shape, DType type, DeviceLimits limits) {
  return !is_double(type) &&
         (holds<SmallSizes>(shape) || holds<MediumSizes>(shape) || holds<LargeSizes>(shape)) &&
         channel_group(bytes_per_channel(shape), 0, shape.channels, limits) > 0;
}

Status run_tile(const Transform& t, DeviceLimits limits, cudaStream_t stream) {
  const Shape shape = t.shape;
  const bool both = t.forward && t.inverse;
  TileParams p{};
  p.in = t.in;
  p.out = t.out;
  p.in_type = t.in_type;
  p.out_type = t.out_type;
  p.height = int(shape.height);
  p.width = int(shape.width);
  p.channels = shape.channels;
  p.group = channel_group(bytes_per_channel(shape), 0, shape.channels, limits);
  p.groups = (shape.channels + p.group - 1) / p.group;
  p.pitch = (p.width | 1) * p.group;
  p.forward = t.forward;
  p.inverse = t.inverse;
  p.scale_h0 = float(scale_of(shape.height, true, both));
  p.scale_h = float(scale_of(shape.height, false, both));
  p.scale_w0 = float(scale_of(shape.width, true, both));
  p.scale_w = float(scale_of(shape.width, false, both));
  p.filter = make_filter<float>(t.coefficients, t.kind, shape.height, shape.width);

  const int64_t lines = (p.height > p.width ? p.height : p.width) * int64_t(p.group);
  const auto kernel = holds<SmallSizes>(shape)    ? small_tile_kernel
                      : holds<MediumSizes>(shape) ? medium_tile_kernel
                                                  : large_tile_kernel;
  return launch(kernel, dim3(unsigned(shape.batch * p.groups)), dim3(block_threads(lines)),
                bytes_per_channel(shape) * p.group, stream, p);
}

}  // namespace rsvheat::cuda
