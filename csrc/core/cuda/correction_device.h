// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward pass of the spatial correction have in common. A first kernel
// stores mean and deviation of each pixel's channels; the convolutions then norm what they read as
// they read it, so that nothing of the size of the features is stored in between. A thread has some
// neighbouring channels of kColumns columns, and slides down the rows of a strip.
#pragma once

#include <algorithm>

#include "../spatial_correction.h"
#include "rows.h"
#include "transform.h"

namespace rsvheat::cuda {

inline constexpr int kColumns = 2;
inline constexpr int kTaps = 9;
inline constexpr int kConvThreads = kMaxThreads < 128 ? kMaxThreads : 128;

template <typename Acc>
RSVHEAT_DEVICE Acc rectified(Acc value) {
  return value <= Acc(0) ? Acc(0) : value;  // keeps NaN
}

// A pixel's vector of channels before the norm.
template <typename S, int V>
RSVHEAT_DEVICE void load_corrected(const S* x, const Accumulator<S>* embed, Accumulator<S>* v) {
  Accumulator<S> shift[V];
  load_vector<V>(x, v);
  load_vector<V>(embed, shift);
  RSVHEAT_UNROLL
  for (int i = 0; i < V; ++i) v[i] = rectified(v[i] + shift[i]);
}

struct CorrectionParams {
  const void *x, *embed, *weight, *bias, *conv_bias, *grad_y;
  double eps;
  Shape shape;
  void* moments;       // (B, H, W, 2)
  const void* taps;    // (9, C)
  void* y;             // result of a convolution
  int64_t strip_rows;  // rows of a strip
  int64_t row_strips, column_strips;

  __host__ __device__ int64_t strips() const { return shape.batch * row_strips * column_strips; }
};

// The first pixel of a strip. Images are the fastest: neighbours in time share the embedding.
struct Strip {
  int64_t image, row, end_row;
  int64_t column;
  RSVHEAT_DEVICE Strip(const CorrectionParams& p, int64_t index) {
    image = index % p.shape.batch;
    const int64_t rest = index / p.shape.batch;
    column = rest % p.column_strips * kColumns;
    row = rest / p.column_strips * p.strip_rows;
    end_row = row + p.strip_rows < p.shape.height ? row + p.strip_rows : p.shape.height;
  }
};

// The normed features of one vector of channels; zero outside of the image.
template <typename S, int V>
struct NormedFeatures {
  using Acc = Accumulator<S>;
  const CorrectionParams& p;
  int64_t c;
  Acc weight[V], bias[V];

  RSVHEAT_DEVICE NormedFeatures(const CorrectionParams& p, int64_t c) : p(p), c(c) {
    load_vector<V>(static_cast<const Acc*>(p.weight) + c, weight);
    load_vector<V>(static_cast<const Acc*>(p.bias) + c, bias);
  }
  RSVHEAT_DEVICE void operator()(int64_t image, int64_t h, int64_t w, Acc* v) const {
    if (h < 0 || h >= p.shape.height || w < 0 || w >= p.shape.width) {
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) v[i] = 0;
      return;
    }
    const int64_t at = h * p.shape.width + w;
    const int64_t pixel = image * p.shape.height * p.shape.width + at;
    Acc moments[2];
    load_vector<2>(static_cast<const Acc*>(p.moments) + 2 * pixel, moments);
    load_corrected<S, V>(static_cast<const S*>(p.x) + pixel * p.shape.channels + c,
                         static_cast<const Acc*>(p.embed) + at * p.shape.channels + c, v);
    RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) v[i] = (v[i] - moments[0]) * moments[1] * weight[i] + bias[i];
  }
};

// Gradients of the result, in the same way.
template <typename S, int V>
struct PlainFeatures {
  using Acc = Accumulator<S>;
  const CorrectionParams& p;
  int64_t c;

  RSVHEAT_DEVICE PlainFeatures(const CorrectionParams& p, int64_t c) : p(p), c(c) {}
  RSVHEAT_DEVICE void operator()(int64_t image, int64_t h, int64_t w, Acc* v) const {
    if (h < 0 || h >= p.shape.height || w < 0 || w >= p.shape.width) {
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) v[i] = 0;
      return;
    }
    const int64_t pixel = (image * p.shape.height + h) * p.shape.width + w;
    load_vector<V>(static_cast<const S*>(p.grad_y) + pixel * p.shape.channels + c, v);
  }
};

// rows[s] = rows[s + 1]: those that a window has as it slides down by one.
template <typename Acc, int V>
RSVHEAT_DEVICE void slide(Acc (&rows)[3][kColumns][V]) {
  RSVHEAT_UNROLL
  for (int s = 0; s < 2; ++s) RSVHEAT_UNROLL
  for (int t = 0; t < kColumns; ++t) RSVHEAT_UNROLL
  for (int i = 0; i < V; ++i) rows[s][t][i] = rows[s + 1][t][i];
}

// body(v, s, t, tap) for what row h of the features, v, has to do with row h - 1 + s and column t
// of a strip: each of the windows around them weighs it by one tap.
template <int V, typename Features, typename Body>
RSVHEAT_DEVICE void for_windows(const Features& features, const Strip& strip, int64_t h,
                                const Body& body) {
  RSVHEAT_UNROLL
  for (int j = -1; j <= kColumns; ++j) {
    typename Features::Acc v[V];
    features(strip.image, h, strip.column + j, v);
    RSVHEAT_UNROLL
    for (int t = 0; t < kColumns; ++t) {
      const int column = j - t + 1;  // of the taps
      if (column < 0 || column > 2) continue;
      RSVHEAT_UNROLL
      for (int s = 0; s < 3; ++s) body(v, s, t, (2 - s) * 3 + column);
    }
  }
}

// taps[t][c] = weight[c][t]: vectors of channels.
template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads)
    transpose_taps_kernel(const Acc* weight, int64_t channels, Acc* taps) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < kTaps * channels) taps[i] = weight[i % channels * kTaps + i / channels];
}

// Mean and factor of each pixel's channels.
template <typename S, int V, int K>
__global__ void __launch_bounds__(kMaxThreads) moments_kernel(CorrectionParams p, RowPlan plan) {
  using Acc = Accumulator<S>;
  const int lane = int(threadIdx.x) & (plan.lanes - 1);
  const int64_t group = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / plan.lanes;
  const int64_t plane = p.shape.height * p.shape.width, pixels = p.shape.batch * plane;
  const int64_t pixel = group < pixels ? group : pixels - 1;
  const S* x = static_cast<const S*>(p.x) + pixel * p.shape.channels;
  const Acc* embed = static_cast<const Acc*>(p.embed) + pixel % plane * p.shape.channels;
  Acc held[K > 0 ? K : 1][V];
  if constexpr (K > 0)
    for_vectors<V, K>(lane, plan,
                      [&](int k, int c) { load_corrected<S, V>(x + c, embed + c, held[k]); });
  const RowMoments<Acc> moments =
      row_moments<V, K>(lane, plan, Acc(p.shape.channels), Acc(p.eps), [&](int k, int c, Acc* v) {
        if constexpr (K > 0) {
          RSVHEAT_UNROLL
          for (int i = 0; i < V; ++i) v[i] = held[k][i];
        } else {
          load_corrected<S, V>(x + c, embed + c, v);
        }
      });
  if (group >= pixels || lane != 0) return;
  const Acc pair[2] = {moments.mean, moments.factor};
  store_vector<2>(static_cast<Acc*>(p.moments) + 2 * pixel, pair);
}

// The depthwise convolution of what Features reads, to results of type Out. `flipped` takes the
// taps in the other order, which makes it the transpose.
template <typename Features, typename Out, int V, bool kFlipped>
__global__ void __launch_bounds__(kConvThreads) convolution_kernel(CorrectionParams p) {
  using Acc = typename Features::Acc;
  const int64_t c = (blockIdx.y * int64_t(blockDim.x) + threadIdx.x) * V;
  const int64_t index = blockIdx.x * int64_t(blockDim.y) + threadIdx.y;
  if (c >= p.shape.channels || index >= p.strips()) return;
  const Strip strip(p, index);
  const Features features(p, c);
  Acc taps[kTaps][V], start[V];
  RSVHEAT_UNROLL
  for (int t = 0; t < kTaps; ++t)
    load_vector<V>(
        static_cast<const Acc*>(p.taps) + (kFlipped ? kTaps - 1 - t : t) * p.shape.channels + c,
        taps[t]);
  RSVHEAT_UNROLL
  for (int i = 0; i < V; ++i) start[i] = 0;
  if (!kFlipped) load_vector<V>(static_cast<const Acc*>(p.conv_bias) + c, start);

  // Results of rows h - 1, h and h + 1 while row h is read.
  Acc sums[3][kColumns][V];
  RSVHEAT_UNROLL
  for (int s = 1; s < 3; ++s) RSVHEAT_UNROLL
  for (int t = 0; t < kColumns; ++t) RSVHEAT_UNROLL
  for (int i = 0; i < V; ++i) sums[s][t][i] = start[i];
  for (int64_t h = strip.row - 1; h <= strip.end_row; ++h) {
    slide(sums);
    RSVHEAT_UNROLL
    for (int t = 0; t < kColumns; ++t) RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) sums[2][t][i] = start[i];
    for_windows<V>(features, strip, h, [&](const Acc* v, int s, int t, int tap) {
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) sums[s][t][i] += v[i] * taps[tap][i];
    });
    if (h - 1 < strip.row) continue;
    RSVHEAT_UNROLL
    for (int t = 0; t < kColumns; ++t) {
      if (strip.column + t >= p.shape.width) continue;
      const int64_t pixel =
          (strip.image * p.shape.height + h - 1) * p.shape.width + strip.column + t;
      store_vector<V>(static_cast<Out*>(p.y) + pixel * p.shape.channels + c, sums[0][t]);
    }
  }
}

// Threads of a block along the channels and along strips, and blocks along both.
struct ConvGrid {
  dim3 grid, block;
  ConvGrid(int64_t channels, int width, int64_t strips, int64_t most_blocks) {
    const int64_t vectors = (channels + width - 1) / width;
    const int64_t along = std::min<int64_t>(vectors, kConvThreads);
    const int64_t rows = std::max<int64_t>(kConvThreads / along, 1);
    block = dim3(unsigned(along), unsigned(rows));
    grid = dim3(unsigned(std::min((strips + rows - 1) / rows, most_blocks)),
                unsigned((vectors + along - 1) / along));
  }
};

// Sets strips of 16 rows, of fewer where that would leave multiprocessors idle.
inline void set_strips(CorrectionParams* p, int width) {
  const Shape& s = p->shape;
  const int64_t vectors = (s.channels + width - 1) / width;
  p->column_strips = (s.width + kColumns - 1) / kColumns;
  for (p->strip_rows = 16;; p->strip_rows /= 2) {
    p->row_strips = (s.height + p->strip_rows - 1) / p->strip_rows;
    const int64_t threads = s.batch * p->row_strips * p->column_strips * vectors;
    if (p->strip_rows == 4 || threads >= int64_t(kPersistentBlocks) * kConvThreads) return;
  }
}

// Addresses of the operands of one pass are multiples of 16 bytes, and so is a row of channels.
template <typename S>
bool takes_vectors(int64_t channels, std::initializer_list<const void*> pointers) {
  return channels % kVector<S> == 0 && std::all_of(pointers.begin(), pointers.end(), is_aligned);
}

inline CorrectionParams correction_params(const void* x, const CorrectionParameters& parameters,
                                          Shape shape) {
  CorrectionParams p{};
  p.x = x;
  p.embed = parameters.embed;
  p.weight = parameters.norm.weight;
  p.bias = parameters.norm.bias;
  p.conv_bias = parameters.conv_bias;
  p.eps = parameters.norm.eps;
  p.shape = shape;
  return p;
}

inline size_t moments_bytes(DType dtype, Shape s) {
  return align_up(s.batch * s.height * s.width * 2 * accumulator_size(dtype));
}
inline size_t taps_bytes(DType dtype, Shape s) {
  return align_up(kTaps * s.channels * accumulator_size(dtype));
}

// Moments and taps of p, whose memory `workspace` begins with.
template <typename S>
Status prepare_correction(CorrectionParams* p, const void* conv_weight, DType dtype, bool vectors,
                          void* workspace, cudaStream_t stream) {
  using Acc = Accumulator<S>;
  p->moments = workspace;
  auto* taps =
      reinterpret_cast<Acc*>(static_cast<char*>(workspace) + moments_bytes(dtype, p->shape));
  p->taps = taps;
  const int64_t channels = p->shape.channels;
  const dim3 taps_grid(unsigned((kTaps * channels + kMaxThreads - 1) / kMaxThreads));
  RSVHEAT_RETURN_IF_ERROR(launch(transpose_taps_kernel<Acc>, taps_grid, dim3(kMaxThreads), 0,
                                 stream, static_cast<const Acc*>(conv_weight), channels, taps));
  const RowPlan plan = plan_rows<S>(channels, vectors, kMostHeld);
  const int64_t threads = p->shape.batch * p->shape.height * p->shape.width * plan.lanes;
  const dim3 grid(unsigned((threads + kMaxThreads - 1) / kMaxThreads));
  return with_plan<S>(plan, [&](auto tag) {
    return launch(moments_kernel<S, decltype(tag)::width, decltype(tag)::held>, grid,
                  dim3(kMaxThreads), 0, stream, *p, plan);
  });
}

}  // namespace rsvheat::cuda
