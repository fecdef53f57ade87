// SPDX-License-Identifier: Apache-2.0
// One axis of images that do not fit in shared memory. Two threads share a line of N = 2M points:
// the first takes x_i + x_{N-1-i}, whose DCT-II of M points is the even coefficients, the second
// x_i - x_{N-1-i}, whose DCT-IV is the odd ones. Each works in registers on its own coefficients;
// only the last step of the inverse, x_i = s_i + d_i and x_{N-1-i} = s_i - d_i, goes through shared
// memory. Lanes run over the contiguous inner index.
//
// The code of a size is long, and a driver that has to compile it for its GPU does so for a whole
// file at a time: so several files share the sizes.
#pragma once

#include "codelets.h"
#include "filter.h"
#include "storage.h"
#include "transform.h"

namespace rsvheat::cuda {

// Halves of the sizes, by the file that has their kernels.
using ShortHalves = SizeList<24, 25, 28, 32, 36, 40, 48>;
using MediumHalves = SizeList<50, 56, 60, 64>;
using LongHalves = SizeList<80, 96, 100>;
using LongestHalves = SizeList<112, 128>;

struct LineParams {
  const void* in;
  void* out;
  DType in_type, out_type;
  int64_t lines, inner, channels;
  bool forward, inverse;
  float scale0, scale;
  Filter<float> filter;
};

template <int M>
__global__ void __launch_bounds__(2 * kLineLanes<M>) line_kernel(LineParams p) {
  constexpr int N = 2 * M, kLanes = kLineLanes<M>;
  RSVHEAT_DYNAMIC_SHARED(shared);
  float* exchange = reinterpret_cast<float*>(shared);  // [role][M][lane]
  const int lane = threadIdx.x, role = threadIdx.y;    // a warp has one role
  const int64_t line = blockIdx.x * int64_t(kLanes) + lane;
  const bool valid = line < p.lines;
  const int64_t inner = line % p.inner;
  const int64_t base = line / p.inner * N * p.inner + inner;

  float v[M];
  if (valid) {
    if (p.forward) {
      const float sign = role ? -1.0f : 1.0f;
      visit_storage<float>(p.in, p.in_type, [&](auto* typed) {
        typed += base;
        RSVHEAT_UNROLL
        for (int i = 0; i < M; ++i)
          v[i] = to_float(typed[i * p.inner]) + sign * to_float(typed[(N - 1 - i) * p.inner]);
      });
      if (role == 0)
        dct2<M>(v);
      else
        dct4<M>(v);
    } else {
      load_line<M>(p.in, p.in_type, base + role * p.inner, 2 * p.inner, v);
    }
    RSVHEAT_UNROLL
    for (int i = 0; i < M; ++i) v[i] *= i == 0 && role == 0 ? p.scale0 : p.scale;
    if (p.filter.data) {
      const int w = int(inner / p.channels);
      const float* coefficient = p.filter.at(role, w, inner % p.channels);
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i)
        v[i] *= p.filter.factor(coefficient[2 * i * p.filter.stride_h], 2 * i + role, w);
    }
  }
  if (!p.inverse) {
    if (valid) store_line<M>(p.out, p.out_type, base + role * p.inner, 2 * p.inner, v);
    return;
  }
  if (valid) {
    if (role == 0)
      dct3<M>(v);
    else
      dct4<M>(v);
    RSVHEAT_UNROLL
    for (int i = 0; i < M; ++i) exchange[(role * M + i) * kLanes + lane] = v[i];
  }
  __syncthreads();
  if (valid) {
    const float* other = exchange + (1 - role) * M * kLanes + lane;
    RSVHEAT_UNROLL
    for (int i = 0; i < M; ++i)
      v[i] = role == 0 ? v[i] + other[i * kLanes] : other[i * kLanes] - v[i];
    // The first thread writes the first half forwards, the second the other half backwards.
    const int64_t first = role == 0 ? base : base + (N - 1) * p.inner;
    store_line<M>(p.out, p.out_type, first, role == 0 ? p.inner : -p.inner, v);
  }
}

// Launches the kernel of one of Halves; `size` is a whole line's.
template <typename Halves>
Status launch_lines(const LineParams& p, int64_t size, cudaStream_t stream) {
  Status status{"line pass", "no kernel for this size"};
  Halves::visit_host(int(size / 2), [&](auto half) {
    constexpr int kLanes = kLineLanes<decltype(half)::value>;
    status =
        launch(line_kernel<decltype(half)::value>, dim3(unsigned((p.lines + kLanes - 1) / kLanes)),
               dim3(kLanes, 2), sizeof(float) * size * kLanes, stream, p);
  });
  return status;
}

Status run_short_lines(const LineParams& p, int64_t size, cudaStream_t stream);
Status run_medium_lines(const LineParams& p, int64_t size, cudaStream_t stream);
Status run_long_lines(const LineParams& p, int64_t size, cudaStream_t stream);
Status run_longest_lines(const LineParams& p, int64_t size, cudaStream_t stream);

}  // namespace rsvheat::cuda
