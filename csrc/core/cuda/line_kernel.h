// SPDX-License-Identifier: Apache-2.0
// One axis of images that do not fit in shared memory. A block takes neighbouring lines of N = 4Q
// points, whose elements are neighbours in memory (a chunk of channels), and reads each point once,
// 16 bytes a lane where addresses allow that. Four threads share a line. As the points come in, two
// even-odd splits turn its DCT-II into transforms of Q points: of the coefficients 4k (DCT-II) and
// 4k + 2 (DCT-IV), and two (DCT-II) whose sums and differences are the coefficients 4k +- 1. Those
// are done in registers, where every coefficient of theirs is an immediate operand. The inverse
// goes the same way backwards. Loops around them are short code, and so is what depends on types.
//
// The code of a size is long, and a driver that has to compile it for its GPU does so for a whole
// file at a time: so two files share the sizes.
#pragma once

#include "codelets.h"
#include "filter.h"
#include "rows.h"
#include "transform.h"

namespace rsvheat::cuda {

// Quarters of the sizes, by the file that has their kernels.
using ShortQuarters = SizeList<12, 14, 16, 18, 20, 24, 25, 28, 30, 32>;
using LongQuarters = SizeList<40, 48, 50, 56, 64>;

inline constexpr int kLineRoles = 4;

struct LineParams {
  const void* in;
  void* out;
  DType in_type, out_type;
  // Line l begins at l / inner * N * pitch + l % inner; its points are `pitch` elements apart.
  unsigned lines, inner, in_pitch, out_pitch, channels;
  bool forward, inverse;
  // Whether accesses of 16 bytes are possible.
  bool wide_in, wide_out, wide_filter;
  float scale0, scale;
  Filter<float> filter;
};

// cos and sin of pi (2i + 1) / (8Q), i < Q.
template <int Q>
struct RotationTable {
  float cosine[Q], sine[Q];
  __host__ __device__ constexpr RotationTable() : cosine{}, sine{} {
    for (int i = 0; i < Q; ++i) {
      cosine[i] = float(cos_half_pi(2 * i + 1, 4 * Q));
      sine[i] = float(cos_half_pi(4 * Q - (2 * i + 1), 4 * Q));
    }
  }
};
template <int Q>
__device__ constexpr RotationTable<Q> kRotations{};

// Where the line of a lane begins: lane = 0 or one that has a line.
struct LineStart {
  unsigned outer, inner;
  template <int N, typename S>
  RSVHEAT_DEVICE S* in(S* data, unsigned pitch) const {
    return data + (int64_t(outer) * N * pitch + inner);
  }
};

// body(i, lane, start) for i < Q and every V-th lane of the block that has a line; `block` is where
// the first one begins.
template <int Q, int V, typename Body>
RSVHEAT_DEVICE void for_line_vectors(const LineParams& p, const LineStart& block,
                                     const Body& body) {
  constexpr int kVectors = kLineLanes / V;
  const int thread = int(threadIdx.y) * kLineLanes + int(threadIdx.x);
  const int lane = thread % kVectors * V;
  if (blockIdx.x * kLineLanes + lane >= p.lines) return;
  LineStart start{block.outer, block.inner + lane};
  for (; start.inner >= p.inner; start.inner -= p.inner) ++start.outer;
  // Several accesses of 16 bytes in flight.
  RSVHEAT_UNROLL_BY(V == 4 ? 2 : 1)
  for (int i = thread / kVectors; i < Q; i += kLineRoles * V) body(i, lane, start);
}

// The four parts of lines, (role, Q, lane), from their points.
template <int Q, int V, typename S>
RSVHEAT_DEVICE void split_points(const LineParams& p, const LineStart& block, const S* in,
                                 float* parts) {
  constexpr int M = 2 * Q, N = 4 * Q, kPart = Q * kLineLanes;
  for_line_vectors<Q, V>(p, block, [&](int i, int lane, const LineStart& start) {
    const S* from = start.in<N>(in, p.in_pitch);
    float x[4][V], part[4][V];
    load_vector<V>(point_of(from, i, p.in_pitch), x[0]);
    load_vector<V>(point_of(from, M - 1 - i, p.in_pitch), x[1]);
    load_vector<V>(point_of(from, M + i, p.in_pitch), x[2]);
    load_vector<V>(point_of(from, N - 1 - i, p.in_pitch), x[3]);
    const float cosine = kRotations<Q>.cosine[i], sine = kRotations<Q>.sine[i];
    const float sign = i % 2 ? -1.0f : 1.0f;
    RSVHEAT_UNROLL
    for (int v = 0; v < V; ++v) {
      const float even0 = x[0][v] + x[3][v], odd0 = x[0][v] - x[3][v];
      const float even1 = x[1][v] + x[2][v], odd1 = x[1][v] - x[2][v];
      part[0][v] = even0 + even1;
      part[1][v] = even0 - even1;
      part[2][v] = odd0 * cosine + odd1 * sine;
      part[3][v] = odd1 * (sign * cosine) - odd0 * (sign * sine);
    }
    RSVHEAT_UNROLL
    for (int role = 0; role < kLineRoles; ++role)
      store_vector<V>(parts + role * kPart + i * kLineLanes + lane, part[role]);
  });
}

// Points of lines from the four parts of the inverse.
template <int Q, int V, typename S>
RSVHEAT_DEVICE void join_points(const LineParams& p, const LineStart& block, const float* parts,
                                S* out) {
  constexpr int M = 2 * Q, N = 4 * Q, kPart = Q * kLineLanes;
  for_line_vectors<Q, V>(p, block, [&](int i, int lane, const LineStart& start) {
    S* to = start.in<N>(out, p.out_pitch);
    float x[4][V], part[4][V];
    RSVHEAT_UNROLL
    for (int role = 0; role < kLineRoles; ++role)
      load_vector<V>(parts + role * kPart + i * kLineLanes + lane, part[role]);
    const float cosine = kRotations<Q>.cosine[i], sine = kRotations<Q>.sine[i];
    const float sign = i % 2 ? -1.0f : 1.0f;
    RSVHEAT_UNROLL
    for (int v = 0; v < V; ++v) {
      const float even0 = part[0][v] + part[1][v], even1 = part[0][v] - part[1][v];
      const float odd0 = part[2][v] * cosine - part[3][v] * (sign * sine);
      const float odd1 = part[2][v] * sine + part[3][v] * (sign * cosine);
      x[0][v] = even0 + odd0;
      x[1][v] = even1 + odd1;
      x[2][v] = even1 - odd1;
      x[3][v] = even0 - odd0;
    }
    store_vector<V>(point_of(to, i, p.out_pitch), x[0]);
    store_vector<V>(point_of(to, M - 1 - i, p.out_pitch), x[1]);
    store_vector<V>(point_of(to, M + i, p.out_pitch), x[2]);
    store_vector<V>(point_of(to, N - 1 - i, p.out_pitch), x[3]);
  });
}

// x + t y and t x - y: the coefficients 4k + 1 and 4k - 1 of the last two parts, and back. Of k =
// 0, t = 0: there is no coefficient -1, and N - 1 takes its place.
template <int V>
RSVHEAT_DEVICE void cross(float t, float* x, float* y) {
  RSVHEAT_UNROLL
  for (int v = 0; v < V; ++v) {
    const float sum = x[v] + t * y[v];
    y[v] = t * x[v] - y[v];
    x[v] = sum;
  }
}

// Multiplies coefficients by scale and filter, on their way from `in` or parts to `out` or parts.
// Filters come with round trips and with the inverse of spectra, which are float32.
template <int Q, int V, bool FromParts, bool ToParts, typename S>
RSVHEAT_DEVICE void scale_coefficients(const LineParams& p, const LineStart& block,
                                       [[maybe_unused]] const S* in, [[maybe_unused]] S* out,
                                       float* parts) {
  constexpr int N = 4 * Q;
  for_line_vectors<Q, V>(p, block, [&](int k, int lane, const LineStart& start) {
    const float t = k == 0 ? 0.0f : 1.0f;
    const int n[4] = {4 * k, 4 * k + 2, 4 * k + 1, k == 0 ? N - 1 : 4 * k - 1};
    const int place[4] = {k, Q + k, 2 * Q + k, k == 0 ? 3 * Q : 4 * Q - k};
    float x[4][V];
    RSVHEAT_UNROLL
    for (int r = 0; r < 4; ++r) {
      if constexpr (FromParts)
        load_vector<V>(parts + place[r] * kLineLanes + lane, x[r]);
      else
        load_vector<V>(point_of(start.in<N>(in, p.in_pitch), n[r], p.in_pitch), x[r]);
    }
    if constexpr (FromParts) cross<V>(t, x[2], x[3]);
    RSVHEAT_UNROLL
    for (int r = 0; r < 4; ++r) {
      const float scale = r == 0 && k == 0 ? p.scale0 : p.scale;
      RSVHEAT_UNROLL
      for (int v = 0; v < V; ++v) x[r][v] *= scale;
    }
    if (ToParts && std::is_same_v<S, float> && p.filter.data) {
      const int w = int(start.inner / p.channels);
      const float* first = p.filter.at(0, w, start.inner % p.channels);
      RSVHEAT_UNROLL
      for (int r = 0; r < 4; ++r) {
        float coefficient[V];
        if constexpr (V > 1)
          load_vector<V>(point_of(first, n[r], unsigned(p.filter.stride_h)), coefficient);
        else
          coefficient[0] = first[n[r] * p.filter.stride_h];
        RSVHEAT_UNROLL
        for (int v = 0; v < V; ++v) x[r][v] *= p.filter.factor(coefficient[v], n[r], w);
      }
    }
    if constexpr (ToParts) cross<V>(t, x[2], x[3]);
    RSVHEAT_UNROLL
    for (int r = 0; r < 4; ++r) {
      if constexpr (ToParts)
        store_vector<V>(parts + place[r] * kLineLanes + lane, x[r]);
      else
        store_vector<V>(point_of(start.in<N>(out, p.out_pitch), n[r], p.out_pitch), x[r]);
    }
  });
}

// body(vector length, typed pointer).
template <typename Pointer, typename Body>
RSVHEAT_DEVICE void with_access(bool wide, Pointer data, DType type, const Body& body) {
  visit_storage<float>(data, type, [&](auto* typed) {
    using S = std::remove_cv_t<std::remove_reference_t<decltype(*typed)>>;
    if (wide)
      body(std::integral_constant<int, kVector<S>>{}, typed);
    else
      body(std::integral_constant<int, 1>{}, typed);
  });
}

// Blocks of a multiprocessor that the registers of a size leave room for; one with a factor of 25
// takes more than others.
__host__ __device__ constexpr int line_blocks(int quarter) {
  return quarter == 50 ? 4 : quarter > 32 ? 5 : quarter > 16 ? 6 : 8;
}

template <int Q>
__global__ void __launch_bounds__(kLineRoles* kLineLanes, line_blocks(Q))
    line_kernel(LineParams p) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  float* parts = reinterpret_cast<float*>(shared);
  const int role = threadIdx.y;  // a warp has one role
  float* own = parts + role * (Q * kLineLanes) + threadIdx.x;
  const unsigned first = blockIdx.x * kLineLanes;
  const bool valid = first + threadIdx.x < p.lines;
  const LineStart block{first / p.inner, first % p.inner};

  if (p.forward) {
    with_access(p.wide_in, p.in, p.in_type, [&](auto length, const auto* in) {
      split_points<Q, decltype(length)::value>(p, block, in, parts);
    });
    __syncthreads();
    if (valid) {
      float v[Q];
      RSVHEAT_UNROLL
      for (int i = 0; i < Q; ++i) v[i] = own[i * kLineLanes];
      if (role == 1)
        dct4<Q>(v);
      else
        dct2<Q>(v);
      RSVHEAT_UNROLL
      for (int i = 0; i < Q; ++i) own[i * kLineLanes] = v[i];
    }
    __syncthreads();
  }
  if (p.forward && p.inverse) {
    const float* in = nullptr;
    float* out = nullptr;
    if (p.wide_filter)
      scale_coefficients<Q, kVector<float>, true, true>(p, block, in, out, parts);
    else
      scale_coefficients<Q, 1, true, true>(p, block, in, out, parts);
  } else if (p.forward) {
    with_access(p.wide_out && p.wide_filter, p.out, p.out_type, [&](auto length, auto* out) {
      const std::remove_reference_t<decltype(*out)>* in = nullptr;
      scale_coefficients<Q, decltype(length)::value, true, false>(p, block, in, out, parts);
    });
    return;
  } else {
    with_access(p.wide_in && p.wide_filter, p.in, p.in_type, [&](auto length, const auto* in) {
      std::remove_cv_t<std::remove_reference_t<decltype(*in)>>* out = nullptr;
      scale_coefficients<Q, decltype(length)::value, false, true>(p, block, in, out, parts);
    });
  }
  __syncthreads();
  if (valid) {
    float v[Q];
    RSVHEAT_UNROLL
    for (int i = 0; i < Q; ++i) v[i] = own[i * kLineLanes];
    if (role == 1)
      dct4<Q>(v);
    else
      dct3<Q>(v);
    RSVHEAT_UNROLL
    for (int i = 0; i < Q; ++i) own[i * kLineLanes] = v[i];
  }
  __syncthreads();
  with_access(p.wide_out, p.out, p.out_type, [&](auto length, auto* out) {
    join_points<Q, decltype(length)::value>(p, block, parts, out);
  });
}

// Launches the kernel of one of Quarters.
template <typename Quarters>
Status launch_lines(const LineParams& p, int quarter, cudaStream_t stream) {
  Status status{"line pass", "no kernel for this size"};
  Quarters::visit_host(quarter, [&](auto q) {
    constexpr int Q = decltype(q)::value;
    status = launch(line_kernel<Q>, dim3(unsigned((p.lines + kLineLanes - 1) / kLineLanes)),
                    dim3(kLineLanes, kLineRoles), sizeof(float) * kLineRoles * Q * kLineLanes,
                    stream, p);
  });
  return status;
}

Status run_short_lines(const LineParams& p, int quarter, cudaStream_t stream);
Status run_long_lines(const LineParams& p, int quarter, cudaStream_t stream);

}  // namespace rsvheat::cuda
