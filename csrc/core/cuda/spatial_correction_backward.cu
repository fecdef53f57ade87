// SPDX-License-Identifier: Apache-2.0
// Some images at a time: the transposed convolution of the gradient, which stays in the level-2
// cache, goes through the norm to the gradients of x and of the embedding. The gradients of the
// taps are sums over all pixels of products of two windows.
#include "correction_device.h"
#include "spatial_correction.h"

namespace rsvheat {
namespace cuda {
namespace {

struct GradientParams {
  CorrectionParams p;
  RowPlan plan;
  const void* grad_normed;  // (B, H, W, C) of the images at hand, in Acc
  void *grad_x, *grad_embed;
  void* sums;  // of the norm's weight and bias, a part for each block
  bool first;  // images of the batch
};

// A group of lanes has a pixel of all images, whose gradients add up to that of the embedding.
template <typename S, int V, int K>
__global__ void __launch_bounds__(kMaxThreads) through_norm_kernel(GradientParams g) {
  using Acc = Accumulator<S>;
  RSVHEAT_DYNAMIC_SHARED(shared);
  const CorrectionParams& p = g.p;
  const int lane = int(threadIdx.x) & (g.plan.lanes - 1);
  const int64_t groups = int64_t(gridDim.x) * blockDim.x / g.plan.lanes;
  const int64_t group = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / g.plan.lanes;
  const int64_t channels = p.shape.channels, plane = p.shape.height * p.shape.width;
  Acc* sums_memory = static_cast<Acc*>(g.sums) + (K > 0 ? blockIdx.x : group) * 2 * channels;
  ChannelSums<Acc, V, K, 2> sums;
  sums.memory = sums_memory;
  sums.channels = channels;
  if (K > 0 || g.first) sums.clear(lane, g.plan);
  for (int64_t first = 0; first < plane; first += groups) {
    const bool valid = first + group < plane;
    const int64_t at = valid ? first + group : plane - 1;
    const Acc* embed = static_cast<const Acc*>(p.embed) + at * channels;
    Acc* grad_embed = static_cast<Acc*>(g.grad_embed) + at * channels;
    for (int64_t image = 0; image < p.shape.batch; ++image) {
      const int64_t pixel = image * plane + at;
      const S* x = static_cast<const S*>(p.x) + pixel * channels;
      const Acc* grads = static_cast<const Acc*>(g.grad_normed) + pixel * channels;
      Acc moments[2];
      load_vector<2>(static_cast<const Acc*>(p.moments) + 2 * pixel, moments);
      // The corrected features, the normed ones, and the gradient of what the weight multiplies.
      const auto evaluate = [&](int c, Acc* value, Acc* unit, Acc* grad, Acc* inner) {
        Acc weight[V];
        load_corrected<S, V>(x + c, embed + c, value);
        load_vector<V>(grads + c, grad);
        load_vector<V>(static_cast<const Acc*>(p.weight) + c, weight);
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) {
          unit[i] = (value[i] - moments[0]) * moments[1];
          inner[i] = grad[i] * weight[i];
        }
      };
      Acc values[K > 0 ? K : 1][V], inners[K > 0 ? K : 1][V];
      Acc mean = 0, slope = 0;
      for_vectors<V, K>(lane, g.plan, [&](int k, int c) {
        Acc unit[V], grad[V];
        evaluate(c, values[k], unit, grad, inners[k]);
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) {
          mean += inners[k][i];
          slope += inners[k][i] * unit[i];
          if (!valid) continue;
          sums.add(0, k, c, i, grad[i] * unit[i]);
          sums.add(1, k, c, i, grad[i]);
        }
      });
      mean = group_sum(mean, g.plan.lanes) / Acc(channels);
      slope = group_sum(slope, g.plan.lanes) / Acc(channels);
      if (!valid) continue;
      const bool begins = g.first && image == 0;
      for_vectors<V, K>(lane, g.plan, [&](int k, int c) {
        Acc v[V], total[V];
        if constexpr (K == 0) {
          Acc unit[V], grad[V];
          evaluate(c, values[k], unit, grad, inners[k]);
        }
        if (!begins) load_vector<V>(grad_embed + c, total);
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) {
          const Acc unit = (values[k][i] - moments[0]) * moments[1];
          const Acc through = (inners[k][i] - mean - unit * slope) * moments[1];
          v[i] = values[k][i] <= Acc(0) ? Acc(0) : through;  // keeps NaN
          total[i] = begins ? v[i] : total[i] + v[i];
        }
        store_vector<V>(static_cast<S*>(g.grad_x) + pixel * channels + c, v);
        store_vector<V>(grad_embed + c, total);
      });
    }
  }
  store_block_sums(sums, lane, g.plan, channels, reinterpret_cast<Acc*>(shared), sums_memory,
                   /*add=*/!g.first);
}

// Products of windows of the normed features with the gradient, and the gradient itself: ten sums a
// channel, a part for each block.
template <typename S, int V>
__global__ void __launch_bounds__(kConvThreads) taps_kernel(CorrectionParams p, void* parts) {
  using Acc = Accumulator<S>;
  RSVHEAT_DYNAMIC_SHARED(shared);
  const int64_t c = (blockIdx.y * int64_t(blockDim.x) + threadIdx.x) * V;
  const bool valid = c < p.shape.channels;
  const NormedFeatures<S, V> features(p, valid ? c : 0);
  const PlainFeatures<S, V> gradients(p, valid ? c : 0);
  Acc sums[kTaps + 1][V];
  RSVHEAT_UNROLL
  for (int t = 0; t <= kTaps; ++t) RSVHEAT_UNROLL
  for (int i = 0; i < V; ++i) sums[t][i] = 0;
  const int64_t step = int64_t(gridDim.x) * blockDim.y, strips = valid ? p.strips() : 0;
  for (int64_t index = blockIdx.x * int64_t(blockDim.y) + threadIdx.y; index < strips;
       index += step) {
    const Strip strip(p, index);
    // The strip's gradients of rows h - 1, h and h + 1 while row h of the features is read.
    Acc grads[3][kColumns][V];
    RSVHEAT_UNROLL
    for (int s = 0; s < 3; ++s) RSVHEAT_UNROLL
    for (int t = 0; t < kColumns; ++t) RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) grads[s][t][i] = 0;
    for (int64_t h = strip.row - 1; h <= strip.end_row; ++h) {
      slide(grads);
      RSVHEAT_UNROLL
      for (int t = 0; t < kColumns; ++t) {
        // Rows of the next strip are its own.
        gradients(strip.image, h + 1 < strip.end_row ? h + 1 : -1, strip.column + t, grads[2][t]);
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) sums[kTaps][i] += grads[2][t][i];
      }
      for_windows<V>(features, strip, h, [&](const Acc* v, int s, int t, int tap) {
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) sums[tap][i] += v[i] * grads[s][t][i];
      });
    }
  }
  // Over the block's strips, in their order; [t][channel of the block].
  Acc* mine = reinterpret_cast<Acc*>(shared) + (threadIdx.y * blockDim.x + threadIdx.x) * V;
  RSVHEAT_UNROLL
  for (int t = 0; t <= kTaps; ++t) {
    RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) mine[i] = sums[t][i];
    __syncthreads();
    if (threadIdx.y == 0 && valid) {
      Acc* to =
          static_cast<Acc*>(parts) + (blockIdx.x * int64_t(kTaps + 1) + t) * p.shape.channels + c;
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) {
        Acc total = 0;
        for (unsigned y = 0; y < blockDim.y; ++y) total += mine[y * blockDim.x * V + i];
        to[i] = total;
      }
    }
    __syncthreads();
  }
}

// grad[c][t] = the parts' sums in order, for the taps, and for the bias.
template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads)
    add_taps_kernel(const Acc* parts, int64_t part_count, int64_t channels, Acc* grad_taps,
                    Acc* grad_bias) {
  const int64_t count = (kTaps + 1) * channels;
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  Acc sum = 0;
  for (int64_t part = 0; part < part_count; ++part) sum += parts[part * count + i];
  const int64_t t = i / channels, c = i % channels;
  if (t < kTaps)
    grad_taps[c * kTaps + t] = sum;
  else
    grad_bias[c] = sum;
}

// Images whose gradients before the norm are held at once.
int64_t images_at_once(DType dtype, Shape s) {
  const int64_t image = s.height * s.width * s.channels * int64_t(accumulator_size(dtype));
  return std::clamp<int64_t>(kCacheBytes / image, 1, s.batch);
}

size_t gradient_bytes(DType dtype, Shape s) {
  Shape step = s;
  step.batch = images_at_once(dtype, s);
  return align_up(numel(step) * accumulator_size(dtype));
}

// Enough for either kind of row plan, whose sums are a block's or a group's.
int64_t norm_blocks(const RowPlan& plan) {
  return plan.held > 0 ? kPersistentBlocks : std::max(kPersistentBlocks / 8, 1);
}
int64_t norm_parts(const RowPlan& plan) {
  return plan.held > 0 ? norm_blocks(plan) : norm_blocks(plan) * (kMaxThreads / plan.lanes);
}
size_t norm_sums_bytes(DType dtype, Shape s) {
  const RowPlan single{kWarp, 0, 1, 1}, held{1, 1, 1, 1};
  const int64_t parts = std::max(norm_parts(single), norm_parts(held));
  return align_up(parts * 2 * s.channels * accumulator_size(dtype));
}
size_t taps_sums_bytes(DType dtype, Shape s) {
  return align_up(int64_t(kPersistentBlocks) * (kTaps + 1) * s.channels * accumulator_size(dtype));
}

template <typename S>
Status run(const void* grad_y, const void* x, CorrectionParameters parameters,
           CorrectionGradients gradients, DType dtype, Shape shape, void* workspace,
           cudaStream_t stream) {
  using Acc = Accumulator<S>;
  const bool vectors =
      takes_vectors<S>(shape.channels, {grad_y, x, parameters.embed, parameters.norm.weight,
                                        parameters.norm.bias, gradients.x, gradients.embed});
  CorrectionParams p = correction_params(x, parameters, shape);
  p.grad_y = grad_y;
  RSVHEAT_RETURN_IF_ERROR(
      prepare_correction<S>(&p, parameters.conv_weight, dtype, vectors, workspace, stream));
  char* next =
      static_cast<char*>(workspace) + moments_bytes(dtype, shape) + taps_bytes(dtype, shape);
  void* grad_normed = next;
  next += gradient_bytes(dtype, shape);
  auto* norm_sums = reinterpret_cast<Acc*>(next);
  next += norm_sums_bytes(dtype, shape);
  auto* taps_sums = reinterpret_cast<Acc*>(next);

  const auto with_width = [&](const auto& body) {
    return vectors ? body(std::integral_constant<int, kVector<S>>{})
                   : body(std::integral_constant<int, 1>{});
  };
  const int64_t channels = shape.channels, plane = shape.height * shape.width;
  unsigned taps_blocks = 0;
  RSVHEAT_RETURN_IF_ERROR(with_width([&](auto width) {
    constexpr int V = decltype(width)::value;
    set_strips(&p, V);
    const ConvGrid g(channels, V, p.strips(), kPersistentBlocks);
    taps_blocks = g.grid.x;
    const size_t shared = size_t(g.block.x) * g.block.y * V * sizeof(Acc);
    return launch(taps_kernel<S, V>, g.grid, g.block, shared, stream, p,
                  static_cast<void*>(taps_sums));
  }));
  const dim3 taps_grid(unsigned(((kTaps + 1) * channels + kMaxThreads - 1) / kMaxThreads));
  RSVHEAT_RETURN_IF_ERROR(launch(add_taps_kernel<Acc>, taps_grid, dim3(kMaxThreads), 0, stream,
                                 taps_sums, int64_t(taps_blocks), channels,
                                 static_cast<Acc*>(gradients.conv_weight),
                                 static_cast<Acc*>(gradients.conv_bias)));

  GradientParams g{};
  g.plan = plan_rows<S>(channels, vectors, kMostHeldBackward<S>);
  g.grad_normed = grad_normed;
  g.grad_embed = gradients.embed;
  g.sums = norm_sums;
  const int64_t images = images_at_once(dtype, shape);
  for (int64_t begin = 0; begin < shape.batch; begin += images) {
    CorrectionParams part = p;
    part.shape.batch = std::min(images, shape.batch - begin);
    const int64_t first = begin * plane;
    part.x = static_cast<const S*>(x) + first * channels;
    part.grad_y = static_cast<const S*>(grad_y) + first * channels;
    part.moments = static_cast<Acc*>(p.moments) + 2 * first;
    part.y = grad_normed;
    RSVHEAT_RETURN_IF_ERROR(with_width([&](auto width) {
      constexpr int V = decltype(width)::value;
      set_strips(&part, V);
      const ConvGrid grid(channels, V, part.strips(), INT32_MAX);
      return launch(convolution_kernel<PlainFeatures<S, V>, Acc, V, true>, grid.grid, grid.block, 0,
                    stream, part);
    }));
    g.p = part;
    g.grad_x = static_cast<S*>(gradients.x) + first * channels;
    g.first = begin == 0;
    const size_t shared = g.plan.held > 0 ? kMaxThreads * g.plan.width * sizeof(Acc) : 0;
    RSVHEAT_RETURN_IF_ERROR(with_plan<S>(g.plan, [&](auto tag) {
      constexpr int V = decltype(tag)::width, K = decltype(tag)::held;
      if constexpr (V * K > 32)
        return Status{"spatial correction", "no kernel for this plan"};
      else
        return launch(through_norm_kernel<S, V, K>, dim3(unsigned(norm_blocks(g.plan))),
                      dim3(kMaxThreads), shared, stream, g);
    }));
  }
  const int64_t parts = norm_parts(g.plan);
  const dim3 sum_grid(unsigned((channels + kMaxThreads - 1) / kMaxThreads));
  RSVHEAT_RETURN_IF_ERROR(launch(add_parts_kernel<Acc>, sum_grid, dim3(kMaxThreads), 0, stream,
                                 static_cast<const Acc*>(norm_sums), parts, 2 * channels, channels,
                                 static_cast<Acc*>(gradients.norm_weight)));
  return launch(add_parts_kernel<Acc>, sum_grid, dim3(kMaxThreads), 0, stream,
                static_cast<const Acc*>(norm_sums + channels), parts, 2 * channels, channels,
                static_cast<Acc*>(gradients.norm_bias));
}

}  // namespace
}  // namespace cuda

using namespace cuda;

size_t spatial_correction_conv_backward_cuda_workspace(DType dtype, Shape shape) {
  if (numel(shape) == 0) return 0;
  return moments_bytes(dtype, shape) + taps_bytes(dtype, shape) + gradient_bytes(dtype, shape) +
         norm_sums_bytes(dtype, shape) + taps_sums_bytes(dtype, shape);
}

Status spatial_correction_conv_backward_cuda(const void* grad_y, const void* x,
                                             CorrectionParameters parameters,
                                             CorrectionGradients gradients, DType dtype,
                                             Shape shape, void* workspace, cudaStream_t stream) {
  if (numel(shape) == 0) {
    const size_t channels = shape.channels * accumulator_size(dtype);
    const std::pair<void*, size_t> sums[] = {
        {gradients.embed, shape.height * shape.width * channels},
        {gradients.norm_weight, channels},
        {gradients.norm_bias, channels},
        {gradients.conv_weight, kTaps * channels},
        {gradients.conv_bias, channels}};
    for (const auto& [data, bytes] : sums) {
      if (bytes == 0) continue;
      RSVHEAT_RETURN_IF_ERROR(
          check(cudaMemsetAsync(data, 0, bytes, stream), "clearing the gradients"));
    }
    return {};
  }
  return with_storage(dtype, [&](auto storage) {
    return run<decltype(storage)>(grad_y, x, parameters, gradients, dtype, shape, workspace,
                                  stream);
  });
}

}  // namespace rsvheat
