// SPDX-License-Identifier: Apache-2.0
#include "../layer_norm.h"

#include <algorithm>

#include "launch.h"

namespace rsvheat {

void layer_norm_cpu(NormStep step, const void* x, const void* other, NormParameters norm, void* y,
                    DType dtype, int64_t rows, int64_t channels, const ParallelFor& host) {
  if (rows * channels == 0) return;
  const ParallelFor parallel = worthwhile_threads(host, {rows, 1, 1, channels});
  NormJob job{step, x, other, norm, y, rows, channels, &parallel};
  kernels().layer_norm[static_cast<int>(dtype)](job);
}

void layer_norm_backward_cpu(NormStep step, const void* grad_y, const void* x, const void* other,
                             NormParameters norm, void* grad_x, void* grad_other, void* grad_weight,
                             void* grad_bias, DType dtype, int64_t rows, int64_t channels,
                             const ParallelFor& host) {
  if (rows * channels == 0) {
    fill_zeros(grad_weight, channels * compute_bytes(dtype));
    fill_zeros(grad_bias, channels * compute_bytes(dtype));
    return;
  }
  constexpr int64_t kMaxBlocks = 64;
  const int64_t blocks = std::min(rows, kMaxBlocks);
  const ParallelFor parallel = worthwhile_threads(host, {rows, 1, 1, channels});
  const WorkspaceLease lease(1, blocks * 3 * channels * compute_bytes(dtype));
  NormBackwardJob job{step,
                      grad_y,
                      x,
                      other,
                      norm,
                      grad_x,
                      grad_other,
                      grad_weight,
                      grad_bias,
                      rows,
                      channels,
                      blocks,
                      lease.workspace().data,
                      &parallel};
  kernels().layer_norm_backward[static_cast<int>(dtype)](job);
}

}  // namespace rsvheat
