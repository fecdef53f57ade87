// SPDX-License-Identifier: Apache-2.0
#include "../linear.h"

#include <algorithm>
#include <tuple>

#include "launch.h"
#include "linear_jobs.h"

namespace rsvheat {

bool lowered_linear_available() {
#if defined(RSVHEAT_AVX512BF16)
  return cpu_capability() == CpuCapability::kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void lowered_linear_cpu(const void* x, const float* weight, const float* bias, bool gelu, void* y,
                        int64_t rows, int64_t inputs, int64_t outputs, const ParallelFor& host) {
#if defined(RSVHEAT_AVX512BF16)
  if (rows * outputs == 0) return;
  struct Context {
    LinearJob job;
    Workspace workspace;
    int64_t parts, row_parts, items;
  };
  const int64_t blocks = outputs / kLinearBlock;
  // Products take longer than the transforms that the bound is for: all threads have work.
  const ParallelFor parallel = worthwhile_threads(host, {rows, 1, inputs / kLinearBlock, outputs});
  // With fewer blocks of channels than threads, rows are shared out as well.
  const int64_t row_parts = std::clamp<int64_t>(parallel.num_threads / blocks, 1, (rows + 31) / 32);
  const int64_t parts = std::min<int64_t>(parallel.num_threads, blocks * row_parts);
  const WorkspaceLease lease(static_cast<int>(parts), kLinearBlock * inputs * sizeof(uint16_t));
  Context context{{static_cast<const uint16_t*>(x), weight, bias, gelu, static_cast<uint16_t*>(y),
                   rows, inputs, outputs},
                  lease.workspace(),
                  parts,
                  row_parts,
                  blocks * row_parts};
  const auto body = [](void* p, int64_t begin, int64_t end) {
    const Context& c = *static_cast<const Context*>(p);
    const int64_t blocks = c.items / c.row_parts;
    for (int64_t part = begin; part < end; ++part) {
      std::byte* panel = c.workspace.data + part * c.workspace.slot_bytes;
      int64_t item = part * c.items / c.parts;
      const int64_t last = (part + 1) * c.items / c.parts;
      while (item < last) {  // blocks of the same rows follow each other
        const int64_t row_part = item / blocks, block = item % blocks;
        const int64_t count = std::min(blocks - block, last - item);
        lowered_linear_avx512bf16(c.job, panel, block, block + count,
                                  row_part * c.job.rows / c.row_parts,
                                  (row_part + 1) * c.job.rows / c.row_parts);
        item += count;
      }
    }
  };
  if (parts == 1) {
    body(&context, 0, 1);
  } else {
    parallel.run(parts, body, &context);
  }
#else
  static_cast<void>(std::tie(x, weight, bias, gelu, y, rows, inputs, outputs, host));
#endif
}

}  // namespace rsvheat
