// SPDX-License-Identifier: Apache-2.0
// The heat conduction operator and its gradients on square images of the encoders' sizes. As in
// tile_kernels.cu a block holds images of a few channels, and one thread transforms a line in its
// registers. Here the size and the channels of a block are known at compile time, so that every
// access to shared memory has a constant offset. The number of channels of the images counts only
// where rows are copied, 16 bytes a lane. A row of the tile holds elements of the operand first and
// float32 after that, in place: between two barriers a row belongs to one warp.
//
// Gradients: a block takes the images of one slice of the batch, one after the other, and holds the
// tiles of x and of the gradient of y. The products of their coefficients are added up for each
// slice; the sum over slices, in their order, is left to the caller.
#pragma once

#include "codelets.h"
#include "filter.h"
#include "rows.h"
#include "transform.h"

namespace rsvheat::cuda {

// By the file that has their kernels.
using SmallSquares = SizeList<7, 8, 14, 16>;
using MediumSquares = SizeList<28, 32>;
using LargeSquares = SizeList<56, 64>;

// Channels and threads of a block, and how many blocks a multiprocessor of an H100 holds at once,
// by its shared memory and registers.
struct SquareBlock {
  int group, threads, blocks;
};
__host__ __device__ constexpr SquareBlock square_block(int size, int element_bytes,
                                                       bool gradients) {
  const bool small = element_bytes == 2;
  switch (size) {
    case 7:
      return {32, 224, gradients ? 4 : 6};
    case 8:
      return {32, 256, gradients ? 4 : 5};
    case 14:
      return {32, 224, gradients ? 4 : 5};
    case 16:
      return {32, 256, gradients ? 3 : 4};
    case 28:
      return {16, gradients ? 448 : 224, gradients ? 2 : 4};
    case 32:
      return {16, gradients ? 512 : 256, gradients ? 1 : 3};
    case 56:
      return {8, gradients ? 448 : 224, gradients ? 1 : 2};
    default:  // 64
      return gradients ? SquareBlock{4, 256, 1}
             : small   ? SquareBlock{8, 512, 1}
                       : SquareBlock{4, 256, 2};
  }
}

struct SquareParams {
  const unsigned char* in;  // x, or the gradient of y
  unsigned char* out;       // y, or the gradient of x; null: not wanted
  DType type;
  int64_t batch, channels;
  int groups;
  Filter<float> filter;
  // Gradients only:
  const unsigned char* x;
  float* parts;  // (slices, groups, size, size, channels of a group)
  int64_t slice_images;
};

// How G lanes share a row of N pixels of G channels: in accesses of a part of a pixel.
template <int N, int G, int Bytes>
struct SquareRows {
  static constexpr int kVectorLength = 16 / Bytes < G ? 16 / Bytes : G;
  static constexpr int kParts = G / kVectorLength;  // of a pixel
  static constexpr int kPixels = G / kParts;        // at once
  static constexpr int kAccesses = (N + kPixels - 1) / kPixels;
  static constexpr int kAtOnce = kWarp / G;  // rows of a warp
  static_assert(N % kAtOnce == 0);
  // An odd number of channel groups spreads the rows that a warp writes over the banks.
  static constexpr int kPitch = (N | 1) * G;
  static constexpr int kFloats = N * kPitch;
  using Access = Pack<uint32_t, kVectorLength * Bytes / 4>;
};

// body(i, global, shared) for the accesses of this lane to row h, which begins at `row`.
template <int N, int G, int Bytes, typename Byte, typename Body>
RSVHEAT_DEVICE void for_accesses(Byte* image, int64_t channels, int active, int h, float* row,
                                 const Body& body) {
  using Rows = SquareRows<N, G, Bytes>;
  using Access = typename Rows::Access;
  const int lane = int(threadIdx.x) % G, part = lane % Rows::kParts, first = lane / Rows::kParts;
  if (part * Rows::kVectorLength >= active) return;
  const unsigned pixel_bytes = unsigned(channels) * Bytes;
  Byte* global =
      image + uint64_t(unsigned(h * N + first)) * pixel_bytes + part * int(sizeof(Access));
  auto* shared = reinterpret_cast<Access*>(row) + lane;
  RSVHEAT_UNROLL
  for (int i = 0; i < Rows::kAccesses; ++i) {
    if (N % Rows::kPixels == 0 || first + i * Rows::kPixels < N)
      body(i, global + uint64_t(unsigned(i * Rows::kPixels)) * pixel_bytes, shared + i * G);
  }
}

// The rows of an image into the tile, each of them transformed. Channels that the image does not
// have hold what was there: no line has to do with another one.
template <int N, int G, int Bytes>
RSVHEAT_DEVICE void transform_rows(const unsigned char* image, DType type, int64_t channels,
                                   int active, float* tile) {
  using Rows = SquareRows<N, G, Bytes>;
  using Access = typename Rows::Access;
  const int lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
  const int c = lane % G;
  for (int h = int(threadIdx.x) / kWarp * Rows::kAtOnce + lane / G; h < N;
       h += warps * Rows::kAtOnce) {
    float* row = tile + h * Rows::kPitch;
    Access loaded[Rows::kAccesses];
    for_accesses<N, G, Bytes>(image, channels, active, h, row,
                              [&](int i, const unsigned char* global, Access*) {
                                const auto* from = reinterpret_cast<const Access*>(global);
                                check_alignment(from);
                                loaded[i] = *from;
                              });
    for_accesses<N, G, Bytes>(
        image, channels, active, h, row,
        [&](int i, const unsigned char*, Access* shared) { *shared = loaded[i]; });
    warp_sync();
    float v[N];
    visit_elements<Bytes>(row, type, [&](auto* elements) {
      RSVHEAT_UNROLL
      for (int w = 0; w < N; ++w) v[w] = to_float(elements[w * G + c]);
    });
    if constexpr (Bytes != sizeof(float)) warp_sync();
    dct2<N>(v);
    RSVHEAT_UNROLL
    for (int w = 0; w < N; ++w) row[w * G + c] = v[w];
  }
}

// The rows of the tile back into an image.
template <int N, int G, int Bytes>
RSVHEAT_DEVICE void invert_rows(float* tile, unsigned char* image, DType type, int64_t channels,
                                int active) {
  using Rows = SquareRows<N, G, Bytes>;
  using Access = typename Rows::Access;
  const int lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
  const int c = lane % G;
  for (int h = int(threadIdx.x) / kWarp * Rows::kAtOnce + lane / G; h < N;
       h += warps * Rows::kAtOnce) {
    float* row = tile + h * Rows::kPitch;
    float v[N];
    RSVHEAT_UNROLL
    for (int w = 0; w < N; ++w) v[w] = row[w * G + c];
    dct3<N>(v);
    if constexpr (Bytes != sizeof(float)) warp_sync();
    visit_elements<Bytes>(row, type, [&](auto* elements) {
      RSVHEAT_UNROLL
      for (int w = 0; w < N; ++w) assign(elements[w * G + c], v[w]);
    });
    warp_sync();
    for_accesses<N, G, Bytes>(image, channels, active, h, row,
                              [&](int, unsigned char* global, const Access* shared) {
                                auto* to = reinterpret_cast<Access*>(global);
                                check_alignment(to);
                                *to = *shared;
                              });
  }
}

// Scale of a round trip through an axis of N points.
template <int N>
__host__ __device__ constexpr float round_trip_scale(bool first) {
  return (first ? 1.0f : 2.0f) / float(N);
}

// Channels of the encoders' stages whose features have this size, of images of 224 to 256 and of
// 1024 pixels: with a dense filter of them, each of its addresses is a constant offset.
template <int N>
using FilterChannels =
    std::conditional_t<(N > 32), SizeList<96, 128, 192, 512>,
                       std::conditional_t<(N > 16), SizeList<192, 256, 384, 1024>,
                                          std::conditional_t<(N > 8), SizeList<384, 512, 768>,
                                                             SizeList<768, 1024, 1536>>>>;

// Multiplies the coefficients of a column by scale and filter.
template <int N>
RSVHEAT_DEVICE void conduct(const Filter<float>& filter, int w, int64_t channel, float* v) {
  const float scale_w = w == 0 ? round_trip_scale<N>(true) : round_trip_scale<N>(false);
  const float* first = filter.at(0, w, channel);
  const auto multiply = [&](const auto& coefficient_of) {
    if (filter.diffusivity) {
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h)
        v[h] *= filter.conducted(coefficient_of(h), h, w) * (scale_w * round_trip_scale<N>(h == 0));
    } else {
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h)
        v[h] *= coefficient_of(h) * (scale_w * round_trip_scale<N>(h == 0));
    }
  };
  const int channels = int(filter.stride_h) / N;
  if (channels * N == int(filter.stride_h) && FilterChannels<N>::contains(channels))
    FilterChannels<N>::visit(channels, [&](auto c) {
      multiply([&](int h) { return first[h * (N * decltype(c)::value)]; });
    });
  else
    multiply([&](int h) { return *point_of(first, h, unsigned(filter.stride_h)); });
}

template <int N, int Bytes>
__global__ void __launch_bounds__(square_block(N, Bytes, false).threads,
                                  square_block(N, Bytes, false).blocks)
    square_kernel(SquareParams p) {
  constexpr int G = square_block(N, Bytes, false).group;
  using Rows = SquareRows<N, G, Bytes>;
  RSVHEAT_DYNAMIC_SHARED(shared);
  float* tile = reinterpret_cast<float*>(shared);
  const int first_channel = int(blockIdx.x) % p.groups * G;
  const int active = p.channels - first_channel < G ? int(p.channels) - first_channel : G;
  const int64_t offset =
      (int64_t(blockIdx.x) / p.groups * (N * N) * p.channels + first_channel) * Bytes;

  transform_rows<N, G, Bytes>(p.in + offset, p.type, p.channels, active, tile);
  __syncthreads();
  for (int item = threadIdx.x; item < N * G; item += blockDim.x) {
    if (item % G >= active) continue;
    float* column = tile + item;
    float v[N];
    RSVHEAT_UNROLL
    for (int h = 0; h < N; ++h) v[h] = column[h * Rows::kPitch];
    dct2<N>(v);
    conduct<N>(p.filter, item / G, first_channel + item % G, v);
    dct3<N>(v);
    RSVHEAT_UNROLL
    for (int h = 0; h < N; ++h) column[h * Rows::kPitch] = v[h];
  }
  __syncthreads();
  invert_rows<N, G, Bytes>(tile, p.out + offset, p.type, p.channels, active);
}

template <int N, int Bytes>
__global__ void __launch_bounds__(square_block(N, Bytes, true).threads,
                                  square_block(N, Bytes, true).blocks)
    square_gradient_kernel(SquareParams p) {
  constexpr int G = square_block(N, Bytes, true).group;
  using Rows = SquareRows<N, G, Bytes>;
  RSVHEAT_DYNAMIC_SHARED(shared);
  float* x_tile = reinterpret_cast<float*>(shared);
  float* tile = x_tile + Rows::kFloats;
  const int first_channel = int(blockIdx.x) % p.groups * G;
  const int active = p.channels - first_channel < G ? int(p.channels) - first_channel : G;
  const int64_t begin = int64_t(blockIdx.x) / p.groups * p.slice_images;
  const int64_t end = begin + p.slice_images < p.batch ? begin + p.slice_images : p.batch;
  float* parts = p.parts + int64_t(blockIdx.x) * (N * N * G);

  // A row's warp is the same for every image, so that rows need no barrier from one to the next.
  for (int64_t image = begin; image < end; ++image) {
    const int64_t offset = (image * (N * N) * p.channels + first_channel) * Bytes;
    transform_rows<N, G, Bytes>(p.x + offset, p.type, p.channels, active, x_tile);
    transform_rows<N, G, Bytes>(p.in + offset, p.type, p.channels, active, tile);
    __syncthreads();
    for (int item = threadIdx.x; item < N * G; item += blockDim.x) {
      if (item % G >= active) continue;
      float* x_column = x_tile + item;
      float* column = tile + item;
      float* part = parts + item;
      float v[N];
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h) v[h] = x_column[h * Rows::kPitch];
      dct2<N>(v);
      // Back to the tile: registers hold one column.
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h) x_column[h * Rows::kPitch] = v[h];
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h) v[h] = column[h * Rows::kPitch];
      dct2<N>(v);
      RSVHEAT_UNROLL
      for (int h = 0; h < N; ++h)
        part[h * N * G] =
            (image == begin ? 0.0f : part[h * N * G]) + x_column[h * Rows::kPitch] * v[h];
      if (p.out) {
        conduct<N>(p.filter, item / G, first_channel + item % G, v);
        dct3<N>(v);
        RSVHEAT_UNROLL
        for (int h = 0; h < N; ++h) column[h * Rows::kPitch] = v[h];
      }
    }
    __syncthreads();
    if (p.out) {
      invert_rows<N, G, Bytes>(tile, p.out + offset, p.type, p.channels, active);
      warp_sync();
    }
  }
}

// Launches the kernel of one of Sizes, of gradients if there are parts.
template <typename Sizes>
Status launch_square(const SquareParams& p, int size, cudaStream_t stream) {
  Status status{"square tile", "no kernel for this size"};
  const auto run = [&](auto n, auto bytes, auto gradients, auto kernel) {
    constexpr int N = decltype(n)::value, kBytes = decltype(bytes)::value;
    constexpr bool kGradients = decltype(gradients)::value;
    constexpr SquareBlock kBlock = square_block(N, kBytes, kGradients);
    const int64_t images = kGradients ? (p.batch + p.slice_images - 1) / p.slice_images : p.batch;
    status =
        launch(kernel, dim3(unsigned(images * p.groups)), dim3(block_size(kBlock.threads)),
               (kGradients ? 2 : 1) * sizeof(float) * SquareRows<N, kBlock.group, kBytes>::kFloats,
               stream, p);
  };
  Sizes::visit_host(size, [&](auto n) {
    constexpr int N = decltype(n)::value;
    const auto with_bytes = [&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value;
      if (p.parts)
        run(n, bytes, std::true_type{}, square_gradient_kernel<N, kBytes>);
      else
        run(n, bytes, std::false_type{}, square_kernel<N, kBytes>);
    };
    if (storage_size(p.type) == 2)
      with_bytes(std::integral_constant<int, 2>{});
    else
      with_bytes(std::integral_constant<int, 4>{});
  });
  return status;
}

Status run_small_square(const SquareParams& p, int size, cudaStream_t stream);
Status run_medium_square(const SquareParams& p, int size, cudaStream_t stream);
Status run_large_square(const SquareParams& p, int size, cudaStream_t stream);

}  // namespace rsvheat::cuda
