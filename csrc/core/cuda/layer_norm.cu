// SPDX-License-Identifier: Apache-2.0
#include "layer_norm.h"

#include <algorithm>

#include "rows.h"
#include "transform.h"

namespace rsvheat {
namespace cuda {
namespace {

struct NormParams {
  const void *x, *other, *weight, *bias, *grad_y;
  void *y, *grad_x, *grad_other, *sums;
  NormRows size;
  double eps;
  RowPlan plan;
};

// As in ../cpu/layer_norm.inl: the gate's activation and its derivative.
template <typename Acc>
struct Gate {
  Acc value, slope;
  RSVHEAT_DEVICE explicit Gate(Acc other) {
    const Acc open = Acc(1) / (Acc(1) + exp(-other));
    value = other * open;
    slope = open * (Acc(1) + other * (Acc(1) - open));
  }
};

// A row's vectors, read once and held, or with K = 0 read at each call.
template <typename S, int V, int K>
struct HeldRow {
  using Acc = Accumulator<S>;
  const S* data;
  Acc held[K > 0 ? K : 1][V];

  RSVHEAT_DEVICE HeldRow(const S* data, int lane, const RowPlan& plan) : data(data) {
    if constexpr (K > 0)
      for_vectors<V, K>(lane, plan, [&](int k, int c) { load_vector<V>(data + c, held[k]); });
  }
  RSVHEAT_DEVICE void operator()(int k, int c, Acc* v) const {
    if constexpr (K > 0) {
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) v[i] = held[k][i];
    } else {
      load_vector<V>(data + c, v);
    }
  }
};

// S: type of x; R: of the other operand, of y and of its gradient.
template <typename S, typename R, NormStep kStep, int V, int K>
__global__ void __launch_bounds__(kMaxThreads) norm_kernel(NormParams p) {
  using Acc = Accumulator<S>;
  const int lane = int(threadIdx.x) & (p.plan.lanes - 1);
  const int64_t group = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / p.plan.lanes;
  const bool valid = group < p.size.rows;
  const int64_t row = valid ? group : p.size.rows - 1;  // a warp's lanes take part in every sum
  const HeldRow<S, V, K> x(static_cast<const S*>(p.x) + row * p.size.x_stride, lane, p.plan);
  const RowMoments<Acc> moments =
      row_moments<V, K>(lane, p.plan, Acc(p.size.channels), Acc(p.eps), x);
  if (!valid) return;
  const R* other = static_cast<const R*>(p.other) + row * p.size.other_stride;
  R* y = static_cast<R*>(p.y) + row * p.size.channels;
  for_vectors<V, K>(lane, p.plan, [&](int k, int c) {
    Acc v[V], second[V], weight[V], bias[V];
    x(k, c, v);
    load_vector<V>(other + c, second);
    load_vector<V>(static_cast<const Acc*>(p.weight) + c, weight);
    load_vector<V>(static_cast<const Acc*>(p.bias) + c, bias);
    RSVHEAT_UNROLL
    for (int i = 0; i < V; ++i) {
      const Acc normed = (v[i] - moments.mean) * moments.factor * weight[i] + bias[i];
      v[i] = kStep == NormStep::kGate ? normed * Gate<Acc>(second[i]).value : second[i] + normed;
    }
    store_vector<V>(y + c, v);
  });
}

template <typename S, typename R, NormStep kStep, int V, int K>
__global__ void __launch_bounds__(kMaxThreads) norm_backward_kernel(NormParams p) {
  using Acc = Accumulator<S>;
  RSVHEAT_DYNAMIC_SHARED(shared);
  const int lane = int(threadIdx.x) & (p.plan.lanes - 1);
  const int64_t groups = int64_t(gridDim.x) * blockDim.x / p.plan.lanes;
  const int64_t group = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / p.plan.lanes;
  const int64_t channels = p.size.channels;
  Acc* sums_memory = static_cast<Acc*>(p.sums) + (K > 0 ? blockIdx.x : group) * 2 * channels;
  ChannelSums<Acc, V, K, 2> sums;
  sums.memory = sums_memory;
  sums.channels = channels;
  sums.clear(lane, p.plan);
  // Every group takes as many turns, as all lanes of a warp take part in every sum.
  for (int64_t first = 0; first < p.size.rows; first += groups) {
    const bool valid = first + group < p.size.rows;
    const int64_t row = valid ? first + group : p.size.rows - 1;
    const HeldRow<S, V, K> x(static_cast<const S*>(p.x) + row * p.size.x_stride, lane, p.plan);
    const R* grad_y = static_cast<const R*>(p.grad_y) + row * channels;
    const RowMoments<Acc> moments = row_moments<V, K>(lane, p.plan, Acc(channels), Acc(p.eps), x);
    // The normed row, and the gradient of what the norm's weight multiplies. `record` is called
    // with the gradient of the normed row and, for a gate, of the gate.
    const auto evaluate = [&](int k, int c, Acc* unit, Acc* inner, const auto& record) {
      Acc weight[V], grad[V];
      x(k, c, unit);
      load_vector<V>(grad_y + c, grad);
      load_vector<V>(static_cast<const Acc*>(p.weight) + c, weight);
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) unit[i] = (unit[i] - moments.mean) * moments.factor;
      if constexpr (kStep == NormStep::kGate) {
        Acc gate[V], bias[V];
        load_vector<V>(static_cast<const R*>(p.other) + row * p.size.other_stride + c, gate);
        load_vector<V>(static_cast<const Acc*>(p.bias) + c, bias);
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) {
          const Gate<Acc> g(gate[i]);
          gate[i] = grad[i] * (unit[i] * weight[i] + bias[i]) * g.slope;
          grad[i] *= g.value;
        }
        record(grad, gate);
      } else {
        record(grad, grad);
      }
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) inner[i] = grad[i] * weight[i];
    };
    Acc units[K > 0 ? K : 1][V], inners[K > 0 ? K : 1][V];
    Acc mean = 0, slope = 0;
    for_vectors<V, K>(lane, p.plan, [&](int k, int c) {
      evaluate(k, c, units[k], inners[k], [&](const Acc* grad_normed, const Acc* grad_gate) {
        if (!valid) return;
        RSVHEAT_UNROLL
        for (int i = 0; i < V; ++i) {
          sums.add(0, k, c, i, grad_normed[i] * units[k][i]);
          sums.add(1, k, c, i, grad_normed[i]);
        }
        if constexpr (kStep == NormStep::kGate)
          store_vector<V>(static_cast<R*>(p.grad_other) + row * channels + c, grad_gate);
      });
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i) {
        mean += inners[k][i];
        slope += inners[k][i] * units[k][i];
      }
    });
    mean = group_sum(mean, p.plan.lanes) / Acc(channels);
    slope = group_sum(slope, p.plan.lanes) / Acc(channels);
    if (!valid) continue;
    S* grad_x = static_cast<S*>(p.grad_x) + row * channels;
    for_vectors<V, K>(lane, p.plan, [&](int k, int c) {
      if constexpr (K == 0) evaluate(k, c, units[k], inners[k], [](const Acc*, const Acc*) {});
      Acc v[V];
      RSVHEAT_UNROLL
      for (int i = 0; i < V; ++i)
        v[i] = (inners[k][i] - mean - units[k][i] * slope) * moments.factor;
      store_vector<V>(grad_x + c, v);
    });
  }
  store_block_sums(sums, lane, p.plan, channels, reinterpret_cast<Acc*>(shared), sums_memory,
                   /*add=*/false);
}

// Blocks of the backward pass: two a multiprocessor of an H100, whose sums are then added.
int64_t backward_blocks(const RowPlan& plan, int64_t rows) {
  const int64_t groups = kMaxThreads / plan.lanes;
  // Sums in memory are a group's, not a block's: fewer of them.
  const int64_t most = plan.held > 0 ? kPersistentBlocks : std::max(kPersistentBlocks / 8, 1);
  return std::clamp<int64_t>((rows + groups - 1) / groups, 1, most);
}

int64_t parts_of(const RowPlan& plan, int64_t blocks) {
  return plan.held > 0 ? blocks : blocks * (kMaxThreads / plan.lanes);
}

bool rows_aligned(DType x_type, DType other_type, NormRows rows,
                  std::initializer_list<const void*> pointers) {
  const bool strides = rows.x_stride * int64_t(storage_size(x_type)) % 16 == 0 &&
                       rows.other_stride * int64_t(storage_size(other_type)) % 16 == 0;
  return strides && std::all_of(pointers.begin(), pointers.end(), is_aligned);
}

// body(S{}, R{}) with the types of x and of the other operand.
template <typename Body>
Status with_types(NormStep step, DType dtype, DType other_dtype, const Body& body) {
  if (other_dtype == dtype) return with_storage(dtype, [&](auto s) { return body(s, s); });
  if (step == NormStep::kAdd && other_dtype == DType::kFloat32) {
    if (dtype == DType::kBFloat16) return body(__nv_bfloat16{}, float{});
    if (dtype == DType::kFloat16) return body(__half{}, float{});
  }
  return {"layer norm", "no kernel for these types"};
}

}  // namespace
}  // namespace cuda

using namespace cuda;

Status layer_norm_cuda(NormStep step, const void* x, DType dtype, const void* other,
                       DType other_dtype, NormParameters norm, void* y, NormRows rows,
                       cudaStream_t stream) {
  if (rows.rows * rows.channels == 0) return {};
  const bool aligned =
      rows_aligned(dtype, other_dtype, rows, {x, other, norm.weight, norm.bias, y});
  return with_types(step, dtype, other_dtype, [&](auto s, auto r) {
    using S = decltype(s);
    using R = decltype(r);
    NormParams p{};
    p.x = x;
    p.other = other;
    p.weight = norm.weight;
    p.bias = norm.bias;
    p.y = y;
    p.size = rows;
    p.eps = norm.eps;
    p.plan = plan_rows<S>(rows.channels, aligned, kMostHeld);
    const int64_t threads = rows.rows * p.plan.lanes;
    const dim3 grid(unsigned((threads + kMaxThreads - 1) / kMaxThreads));
    return with_plan<S>(p.plan, [&](auto tag) {
      constexpr int V = decltype(tag)::width, K = decltype(tag)::held;
      if constexpr (sizeof(S) == sizeof(R)) {
        if (step == NormStep::kGate)
          return launch(norm_kernel<S, R, NormStep::kGate, V, K>, grid, dim3(kMaxThreads), 0,
                        stream, p);
      }
      return launch(norm_kernel<S, R, NormStep::kAdd, V, K>, grid, dim3(kMaxThreads), 0, stream, p);
    });
  });
}

size_t layer_norm_backward_cuda_workspace(DType dtype, int64_t rows, int64_t channels) {
  if (rows * channels == 0) return 0;
  // Of the plan that needs the most: element by element, or of whole vectors.
  const RowPlan single{kWarp, 0, 1, int(channels)}, held{1, 1, 1, 1};
  const int64_t parts =
      std::max(parts_of(single, backward_blocks(single, rows)), backward_blocks(held, rows));
  const int64_t most = std::max<int64_t>(parts, kPersistentBlocks);
  return most * 2 * channels * accumulator_size(dtype);
}

Status layer_norm_backward_cuda(NormStep step, const void* grad_y, const void* x, DType dtype,
                                const void* other, DType other_dtype, NormParameters norm,
                                void* grad_x, void* grad_other, void* grad_weight, void* grad_bias,
                                NormRows rows, void* workspace, cudaStream_t stream) {
  const int64_t channels = rows.channels;
  if (rows.rows * channels == 0) {
    for (void* sums : {grad_weight, grad_bias}) {
      if (channels > 0)
        RSVHEAT_RETURN_IF_ERROR(
            check(cudaMemsetAsync(sums, 0, channels * accumulator_size(dtype), stream),
                  "clearing the gradients"));
    }
    return {};
  }
  const bool aligned = rows_aligned(dtype, other_dtype, rows,
                                    {grad_y, x, other, norm.weight, norm.bias, grad_x, grad_other});
  return with_types(step, dtype, other_dtype, [&](auto s, auto r) {
    using S = decltype(s);
    using R = decltype(r);
    using Acc = Accumulator<S>;
    NormParams p{};
    p.x = x;
    p.other = other;
    p.weight = norm.weight;
    p.bias = norm.bias;
    p.grad_y = grad_y;
    p.grad_x = grad_x;
    p.grad_other = grad_other;
    p.sums = workspace;
    p.size = rows;
    p.eps = norm.eps;
    p.plan = plan_rows<S>(channels, aligned, kMostHeldBackward<S>);
    const int64_t blocks = backward_blocks(p.plan, rows.rows);
    const dim3 grid{unsigned(blocks)};
    const size_t shared = p.plan.held > 0 ? kMaxThreads * p.plan.width * sizeof(Acc) : 0;
    RSVHEAT_RETURN_IF_ERROR(with_plan<S>(p.plan, [&](auto tag) {
      constexpr int V = decltype(tag)::width, K = decltype(tag)::held;
      if constexpr (V * K > 32) {
        return Status{"layer norm", "no kernel for this plan"};
      } else {
        if constexpr (sizeof(S) == sizeof(R)) {
          if (step == NormStep::kGate)
            return launch(norm_backward_kernel<S, R, NormStep::kGate, V, K>, grid,
                          dim3(kMaxThreads), shared, stream, p);
        }
        return launch(norm_backward_kernel<S, R, NormStep::kAdd, V, K>, grid, dim3(kMaxThreads),
                      shared, stream, p);
      }
    }));
    const int64_t parts = parts_of(p.plan, blocks);
    // The sums of a part: weight, then bias; each is written to a tensor of its own.
    const auto* sums = static_cast<const Acc*>(workspace);
    const dim3 sum_grid(unsigned((channels + kMaxThreads - 1) / kMaxThreads));
    RSVHEAT_RETURN_IF_ERROR(launch(add_parts_kernel<Acc>, sum_grid, dim3(kMaxThreads), 0, stream,
                                   sums, parts, 2 * channels, channels,
                                   static_cast<Acc*>(grad_weight)));
    return launch(add_parts_kernel<Acc>, sum_grid, dim3(kMaxThreads), 0, stream, sums + channels,
                  parts, 2 * channels, channels, static_cast<Acc*>(grad_bias));
  });
}

}  // namespace rsvheat
