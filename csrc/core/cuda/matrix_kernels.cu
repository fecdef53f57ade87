// SPDX-License-Identifier: Apache-2.0
// Sizes without a register codelet, and float64: the same tile in shared memory, transformed by
// matrix products whose cost even/odd splitting halves. Two buffers alternate as source and
// destination; cosines are tabulated in shared memory.
#include "filter.h"
#include "storage.h"
#include "transform.h"

namespace rsvheat::cuda {
namespace {

struct MatrixParams {
  const void* in;
  void* out;
  DType in_type, out_type;
  int height, width;  // of the tile
  int64_t channels, groups;
  int group;
  bool transform_rows;  // else along the height only, and width is 1
  bool forward, inverse;
  double scale_h0, scale_h, scale_w0, scale_w;
  int64_t filter_channels;  // channel j of the tile is (width j / this, channel j % this)
};

// One axis of the tile: `lines` lines of `size` points, `stride` apart. Line l starts at
// (l / group) * line_stride + l % group.
struct Axis {
  int size, stride, lines, line_stride, group;
  RSVHEAT_DEVICE int start(int line) const { return line / group * line_stride + line % group; }
};

// cosines[j] = cos(pi j / (2 size)), j < 4 size.
template <typename Acc>
RSVHEAT_DEVICE void tabulate_cosines(int size, Acc* cosines) {
  for (int j = threadIdx.x; j < 4 * size; j += blockDim.x)
    cosines[j] = Acc(cospi(double(j) / (2.0 * size)));
}

// Forward transform of all lines of source (destroyed) into target.
template <typename Acc>
RSVHEAT_DEVICE void forward_axis(const Axis& axis, const Acc* cosines, Acc* source, Acc* target) {
  const int n = axis.size, half = n / 2, period = 4 * n;
  for (int item = threadIdx.x; item < half * axis.lines; item += blockDim.x) {
    Acc* line = source + axis.start(item % axis.lines);
    const int i = item / axis.lines;
    const Acc a = line[i * axis.stride], b = line[(n - 1 - i) * axis.stride];
    line[i * axis.stride] = a + b;
    line[(n - 1 - i) * axis.stride] = a - b;
  }
  __syncthreads();
  // A thread takes four coefficients of one parity, so that each point is read once for four.
  constexpr int kOutputs = 4;
  const int even_groups = ((n + 1) / 2 + kOutputs - 1) / kOutputs;
  const int odd_groups = (half + kOutputs - 1) / kOutputs;
  for (int item = threadIdx.x; item < (even_groups + odd_groups) * axis.lines; item += blockDim.x) {
    const int start = axis.start(item % axis.lines), group = item / axis.lines;
    const int parity = group >= even_groups;
    const int first = parity + 2 * kOutputs * (parity ? group - even_groups : group);
    const Acc* point = source + start + (parity ? (n - 1) * axis.stride : 0);
    const int step = parity ? -axis.stride : axis.stride;
    Acc sum[kOutputs] = {};
    int angle[kOutputs], turn[kOutputs];
    RSVHEAT_UNROLL
    for (int r = 0; r < kOutputs; ++r) {
      angle[r] = (first + 2 * r) % period;
      turn[r] = 2 * (first + 2 * r) % period;
    }
    for (int i = 0; i < (parity ? half : n - half); ++i, point += step) {
      const Acc value = *point;
      RSVHEAT_UNROLL
      for (int r = 0; r < kOutputs; ++r) {
        sum[r] += value * cosines[angle[r]];
        angle[r] += turn[r];
        if (angle[r] >= period) angle[r] -= period;
      }
    }
    RSVHEAT_UNROLL
    for (int r = 0; r < kOutputs; ++r)
      if (first + 2 * r < n) target[start + (first + 2 * r) * axis.stride] = sum[r];
  }
  __syncthreads();
}

template <typename Acc>
RSVHEAT_DEVICE void inverse_axis(const Axis& axis, const Acc* cosines, const Acc* source,
                                 Acc* target) {
  const int n = axis.size, period = 4 * n;
  for (int item = threadIdx.x; item < (n + 1) / 2 * axis.lines; item += blockDim.x) {
    const int start = axis.start(item % axis.lines), i = item / axis.lines;
    Acc even = 0, odd = 0;
    int angle = 0;
    for (int k = 0; k < n; k += 2) {
      even += source[start + k * axis.stride] * cosines[angle];
      angle += 2 * i + 1;
      if (angle >= period) angle -= period;
      if (k + 1 < n) odd += source[start + (k + 1) * axis.stride] * cosines[angle];
      angle += 2 * i + 1;
      if (angle >= period) angle -= period;
    }
    target[start + i * axis.stride] = even + odd;
    if (n - 1 - i != i) target[start + (n - 1 - i) * axis.stride] = even - odd;
  }
  __syncthreads();
}

template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads) matrix_kernel(MatrixParams p, Filter<Acc> filter) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  const int points = p.height * p.width * p.group, row = p.width * p.group;
  Acc* cosines_h = reinterpret_cast<Acc*>(shared);
  Acc* cosines_w = cosines_h + 4 * p.height;
  Acc* source = cosines_w + 4 * p.width;
  Acc* target = source + points;
  const Axis down{p.height, row, row, 0, row};
  const Axis across{p.width, p.group, p.height * p.group, row, p.group};

  const int64_t first_channel = (blockIdx.x % p.groups) * p.group;
  const int64_t base = blockIdx.x / p.groups * p.height * p.width * p.channels + first_channel;
  const int64_t left = p.channels - first_channel;
  const int active = left < p.group ? int(left) : p.group;

  tabulate_cosines(p.height, cosines_h);
  if (p.transform_rows) tabulate_cosines(p.width, cosines_w);
  for (int item = threadIdx.x; item < points; item += blockDim.x) {
    const int c = item & (p.group - 1);
    source[item] =
        c < active ? load<Acc>(p.in, p.in_type, base + item / p.group * p.channels + c) : Acc(0);
  }
  __syncthreads();

  if (p.forward) {
    if (p.transform_rows) {
      forward_axis(across, cosines_w, source, target);
      Acc* swapped = source;
      source = target;
      target = swapped;
    }
    forward_axis(down, cosines_h, source, target);
    Acc* swapped = source;
    source = target;
    target = swapped;
  }
  const Acc scale_h0 = Acc(p.scale_h0), scale_h = Acc(p.scale_h);
  const Acc scale_w0 = Acc(p.scale_w0), scale_w = Acc(p.scale_w);
  for (int item = threadIdx.x; item < points; item += blockDim.x) {
    const int c = item & (p.group - 1), h = item / row, w = item / p.group - h * p.width;
    if (c >= active) continue;
    Acc factor = (h == 0 ? scale_h0 : scale_h) * (w == 0 ? scale_w0 : scale_w);
    if (filter.data) {
      const int64_t channel = first_channel + c;
      const int full_w = w + int(channel / p.filter_channels);
      factor *= filter.factor(*filter.at(h, full_w, channel % p.filter_channels), h, full_w);
    }
    source[item] *= factor;
  }
  __syncthreads();
  if (p.inverse) {
    inverse_axis(down, cosines_h, source, target);
    Acc* swapped = source;
    source = target;
    target = swapped;
    if (p.transform_rows) {
      inverse_axis(across, cosines_w, source, target);
      source = target;
    }
  }
  for (int item = threadIdx.x; item < points; item += blockDim.x) {
    const int c = item & (p.group - 1);
    if (c < active) store(p.out, p.out_type, base + item / p.group * p.channels + c, source[item]);
  }
}

size_t bytes_per_channel(Shape shape, DType type) {
  return 2 * shape.height * shape.width * accumulator_size(type);
}
size_t cosine_bytes(Shape shape, DType type) {
  return 4 * (shape.height + shape.width) * accumulator_size(type);
}

Status run(MatrixParams p, Shape tiles, DType type, const Coefficients* coefficients,
           Conduction kind, int64_t filter_width, DeviceLimits limits, cudaStream_t stream) {
  const size_t fixed = cosine_bytes(tiles, type);
  p.height = int(tiles.height);
  p.width = int(tiles.width);
  p.channels = tiles.channels;
  p.group = channel_group(bytes_per_channel(tiles, type), fixed, tiles.channels, limits);
  if (p.group == 0) return {"matrix transform", "the device's shared memory is too small"};
  p.groups = (tiles.channels + p.group - 1) / p.group;
  const dim3 grid(unsigned(tiles.batch * p.groups));
  const dim3 block(block_threads(tiles.height * tiles.width * p.group));
  const size_t shared = fixed + bytes_per_channel(tiles, type) * p.group;
  if (is_double(type))
    return launch(matrix_kernel<double>, grid, block, shared, stream, p,
                  make_filter<double>(coefficients, kind, tiles.height, filter_width));
  return launch(matrix_kernel<float>, grid, block, shared, stream, p,
                make_filter<float>(coefficients, kind, tiles.height, filter_width));
}

}  // namespace

bool matrix_fits(Shape shape, DType type, DeviceLimits limits) {
  return shape.height <= kMaxMatrixSize && shape.width <= kMaxMatrixSize &&
         channel_group(bytes_per_channel(shape, type), cosine_bytes(shape, type), shape.channels,
                       limits) > 0;
}

Status run_matrix(const Transform& t, DeviceLimits limits, cudaStream_t stream) {
  const bool both = t.forward && t.inverse;
  MatrixParams p{};
  p.in = t.in;
  p.out = t.out;
  p.in_type = t.in_type;
  p.out_type = t.out_type;
  p.transform_rows = true;
  p.forward = t.forward;
  p.inverse = t.inverse;
  p.scale_h0 = scale_of(t.shape.height, true, both);
  p.scale_h = scale_of(t.shape.height, false, both);
  p.scale_w0 = scale_of(t.shape.width, true, both);
  p.scale_w = scale_of(t.shape.width, false, both);
  p.filter_channels = t.shape.channels;
  return run(p, t.shape, t.in_type, t.coefficients, t.kind, t.shape.width, limits, stream);
}

Status run_matrix_pass(const AxisPass& pass, DType type, DeviceLimits limits, cudaStream_t stream) {
  MatrixParams p{};
  p.in = pass.in;
  p.out = pass.out;
  p.in_type = pass.in_type;
  p.out_type = pass.out_type;
  p.transform_rows = false;
  p.forward = pass.forward;
  p.inverse = pass.inverse;
  p.scale_h0 = pass.scale0;
  p.scale_h = pass.scale;
  p.scale_w0 = p.scale_w = 1.0;
  p.filter_channels = pass.channels;
  return run(p, {pass.outer, pass.size, 1, pass.inner}, type, pass.coefficients, pass.kind,
             pass.width, limits, stream);
}

}  // namespace rsvheat::cuda
