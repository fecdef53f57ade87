// SPDX-License-Identifier: Apache-2.0
// Rows of channels read by small groups of neighbouring lanes, 16 bytes a lane and access where
// addresses allow that.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "../types.h"
#include "platform.h"
#include "storage.h"

namespace rsvheat::cuda {

inline constexpr int kWarp = 32;

// What sums of operands of a storage type are kept in.
template <typename S>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename S>
using Accumulator = typename AccumulatorOf<S>::type;

// Elements of a 16-byte access.
template <typename S>
inline constexpr int kVector = int(16 / sizeof(S));

template <typename S, int V>
struct alignas(V * sizeof(S)) Pack {
  S v[V];
};

template <typename P>
RSVHEAT_DEVICE void check_alignment([[maybe_unused]] const P* pointer) {
#if defined(RSVHEAT_CUDA_EMULATION)
  // What a GPU answers with a misaligned address, and the emulation's host would let pass.
  if (reinterpret_cast<uintptr_t>(pointer) % alignof(P) != 0) std::abort();
#endif
}

// v[i] = data[i], i < V, and back. Parameters in Acc, which fill more than 16 bytes, take several
// accesses.
template <int V, typename S, typename Acc>
RSVHEAT_DEVICE void load_vector(const S* data, Acc* v) {
  constexpr int kAtOnce = V < kVector<S> ? V : kVector<S>;
  using Part = Pack<S, kAtOnce>;
  RSVHEAT_UNROLL
  for (int first = 0; first < V; first += kAtOnce) {
    const auto* part = reinterpret_cast<const Part*>(data + first);
    check_alignment(part);
    const Part values = *part;
    RSVHEAT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) v[first + i] = to_float(values.v[i]);
  }
}
template <int V, typename S, typename Acc>
RSVHEAT_DEVICE void store_vector(S* data, const Acc* v) {
  constexpr int kAtOnce = V < kVector<S> ? V : kVector<S>;
  using Part = Pack<S, kAtOnce>;
  RSVHEAT_UNROLL
  for (int first = 0; first < V; first += kAtOnce) {
    Part values;
    RSVHEAT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) assign(values.v[i], v[first + i]);
    auto* part = reinterpret_cast<Part*>(data + first);
    check_alignment(part);
    *part = values;
  }
}

// How groups of lanes share the rows: `lanes`, a power of two, for each row. A lane holds up to
// `held` vectors of `width` elements in registers; with held = 0 it reads them anew when needed,
// element by element, which any row and any address allow.
struct RowPlan {
  int lanes, held, width, vectors;
};

// The plan for rows of `channels` elements of S. `aligned`: whether every row of every operand
// begins at a multiple of 16 bytes. `most_held` bounds the registers.
template <typename S>
RowPlan plan_rows(int64_t channels, bool aligned, int most_held) {
  constexpr int V = kVector<S>;
  const int64_t vectors = channels / V;
  if (!aligned || channels % V != 0 || vectors > int64_t(kWarp) * most_held)
    return {kWarp, 0, 1, int(channels)};
  RowPlan plan{1, 1, V, int(vectors)};
  while (plan.held * kWarp < vectors) plan.held *= 2;
  while (plan.lanes * plan.held < vectors) plan.lanes *= 2;
  return plan;
}

// body(tag) with tag.width, tag.held of the plan; held is 1, 2, 4 or 8.
template <int V, int K>
struct RowTag {
  static constexpr int width = V, held = K;
};
template <typename S, typename Body>
Status with_plan(const RowPlan& plan, const Body& body) {
  constexpr int V = kVector<S>;
  switch (plan.held) {
    case 0:
      return body(RowTag<1, 0>{});
    case 1:
      return body(RowTag<V, 1>{});
    case 2:
      return body(RowTag<V, 2>{});
    case 4:
      return body(RowTag<V, 4>{});
    default:
      return body(RowTag<V, 8>{});
  }
}
inline constexpr int kMostHeld = 8;
// Backward passes hold several rows and sums: at most 32 elements of each.
template <typename S>
inline constexpr int kMostHeldBackward = kVector<S> > 4 ? 4 : 8;

// body(S{}) with the storage type.
template <typename Body>
Status with_storage(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat64:
      return body(double{});
    case DType::kBFloat16:
      return body(__nv_bfloat16{});
    case DType::kFloat16:
      return body(__half{});
    default:
      return body(float{});
  }
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// body(k, c) for each vector of a row that this lane has: the k-th, which begins at channel c.
template <int V, int K, typename Body>
RSVHEAT_DEVICE void for_vectors(int lane, const RowPlan& plan, const Body& body) {
  if constexpr (K > 0) {
    RSVHEAT_UNROLL
    for (int k = 0; k < K; ++k) {
      const int i = lane + k * plan.lanes;
      if (i < plan.vectors) body(k, i * V);
    }
  } else {
    for (int i = lane; i < plan.vectors; i += plan.lanes) body(0, i * V);
  }
}

template <typename Acc>
struct RowMoments {
  Acc mean, factor;  // factor: one over the deviation
};

// Of the row whose vectors value(k, c, v) writes to v. All lanes of a warp have to call it.
template <int V, int K, typename Acc, typename Value>
RSVHEAT_DEVICE RowMoments<Acc> row_moments(int lane, const RowPlan& plan, Acc channels, Acc eps,
                                           const Value& value) {
  Acc sum = 0;
  for_vectors<V, K>(lane, plan, [&](int k, int c) {
    Acc v[V];
    value(k, c, v);
    RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) sum += v[i];
  });
  const Acc mean = group_sum(sum, plan.lanes) / channels;
  Acc squares = 0;
  for_vectors<V, K>(lane, plan, [&](int k, int c) {
    Acc v[V];
    value(k, c, v);
    RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) squares += (v[i] - mean) * (v[i] - mean);
  });
  const Acc variance = group_sum(squares, plan.lanes) / channels;
  return {mean, Acc(1) / sqrt(variance + eps)};
}

// Sums over rows that each lane adds up for its own channels, kPer of them: in registers, or where
// rows are not held, in the group's own part of `memory`.
template <typename Acc, int V, int K, int kSums>
struct ChannelSums {
  Acc held[kSums][K > 0 ? K : 1][V];
  Acc* memory;  // (kSums, channels) of this group; only with K = 0
  int64_t channels;

  RSVHEAT_DEVICE void clear(int lane, const RowPlan& plan) {
    if constexpr (K > 0) {
      RSVHEAT_UNROLL
      for (int s = 0; s < kSums; ++s) RSVHEAT_UNROLL
      for (int k = 0; k < K; ++k) RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) held[s][k][i] = 0;
    } else {
      for (int s = 0; s < kSums; ++s)
        for_vectors<V, K>(lane, plan, [&](int, int c) { memory[s * channels + c] = 0; });
    }
  }
  RSVHEAT_DEVICE void add(int sum, int k, int c, int i, Acc value) {
    if constexpr (K > 0)
      held[sum][k][i] += value;
    else
      memory[sum * channels + c + i] += value;
  }
};

// Adds the groups' sums of a block, in the groups' order, and stores them at `block_sums`,
// (kSums, channels); `add` to what is there. `shared` has blockDim.x * V elements. The whole block
// has to call it. Sums in memory are already where they belong.
template <typename Acc, int V, int K, int kSums>
RSVHEAT_DEVICE void store_block_sums(const ChannelSums<Acc, V, K, kSums>& sums, int lane,
                                     const RowPlan& plan, int64_t channels, Acc* shared,
                                     Acc* block_sums, bool add) {
  if constexpr (K > 0) {
    const int groups = int(blockDim.x) / plan.lanes;
    RSVHEAT_UNROLL
    for (int s = 0; s < kSums; ++s) {
      RSVHEAT_UNROLL
      for (int k = 0; k < K; ++k) {
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) shared[threadIdx.x * V + i] = sums.held[s][k][i];
        __syncthreads();
        const int vector = lane + k * plan.lanes;
        if (int(threadIdx.x) < plan.lanes && vector < plan.vectors) {
          RSVHEAT_UNROLL
          for (int i = 0; i < V; ++i) {
            Acc total = 0;
            for (int g = 0; g < groups; ++g) total += shared[(g * plan.lanes + lane) * V + i];
            Acc* to = block_sums + s * channels + vector * V + i;
            *to = add ? *to + total : total;
          }
        }
        __syncthreads();
      }
    }
  }
}

// sums[i] = parts[i] + parts[stride + i] + ... in order, i < count. One thread a sum.
template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads)
    add_parts_kernel(const Acc* parts, int64_t part_count, int64_t stride, int64_t count,
                     Acc* sums) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  Acc sum = 0;
  for (int64_t part = 0; part < part_count; ++part) sum += parts[part * stride + i];
  sums[i] = sum;
}

}  // namespace rsvheat::cuda
