// SPDX-License-Identifier: Apache-2.0
// How an entry point of the CPU runs a kernel: threads, tiles, plans and work space by the size of
// the operand.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dispatch.h"
#include "jobs.h"
#include "plan.h"
#include "workspace.h"

namespace rsvheat {

// Size of the type that arithmetic on `dtype` is done in.
inline size_t compute_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
}

inline bool is_half(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16; }

inline bool is_empty(Shape s) { return s.batch * s.height * s.width * s.channels == 0; }

// An empty tensor's data may be a null pointer, which memset does not take.
inline void fill_zeros(void* data, size_t bytes) {
  if (bytes > 0) std::memset(data, 0, bytes);
}

// `host` with no more threads than have 10 microseconds' work each: waking one costs that, and a
// whole slice of the scheduler where the core is busy.
ParallelFor worthwhile_threads(ParallelFor host, Shape shape);

// What a kernel keeps of an item at once: `whole` tiles of the whole plane or, on planes that
// exceed the cache, `strips` tiles of a strip (0: it takes whole planes only) and, shared by all
// threads, `planes` planes that lie in no operand.
struct TileNeeds {
  int whole, strips = 0, planes = 0;
};

// The tile of a thread for images of `shape`.
Tile choose_tile(Shape shape, Layout layout, int64_t lanes, size_t vector_bytes, TileNeeds needs,
                 int threads);

// Runs kernel(job) with the plans and, for each thread, its tiles and lines to work on.
template <class KernelJob, class Result>
Result launch(Result (*const (&by_dtype)[4])(const KernelJob&), KernelJob& job, DType dtype,
              Shape shape, Layout layout, TileNeeds needs, const ParallelFor& host) {
  const ParallelFor parallel = worthwhile_threads(host, shape);
  const size_t vector_bytes = kernels().vector_bytes;
  job.shape = shape;
  job.tile = choose_tile(shape, layout, vector_bytes / compute_bytes(dtype), vector_bytes, needs,
                         parallel.num_threads);
  job.parallel = &parallel;
  const bool strips = in_strips(shape, job.tile);
  const int64_t registers =
      (strips ? needs.strips : needs.whole) * tile_registers(job.tile) + line_registers(job.tile);
  const int64_t shared = strips ? needs.planes * plane_registers(shape, job.tile) : 0;
  const WorkspaceLease lease(parallel.num_threads, registers * vector_bytes, shared * vector_bytes);
  job.workspace = lease.workspace();
  const auto run = [&](const auto& height_plan, const auto& width_plan) {
    job.height_plan = height_plan.get();
    job.width_plan = width_plan.get();
    return by_dtype[static_cast<int>(dtype)](job);
  };
  return dtype == DType::kFloat64
             ? run(get_plan<double>(shape.height), get_plan<double>(shape.width))
             : run(get_plan<float>(shape.height), get_plan<float>(shape.width));
}

}  // namespace rsvheat
