// SPDX-License-Identifier: Apache-2.0
#include "../spatial_correction.h"

#include <algorithm>
#include <vector>

#include "launch.h"

namespace rsvheat {
namespace {

int64_t padded_channels(Shape s, DType dtype) {
  return round_up(s.channels, static_cast<int64_t>(kernels().vector_bytes / compute_bytes(dtype)));
}

}  // namespace

void spatial_correction_conv_cpu(const void* x, CorrectionParameters parameters, void* y,
                                 DType dtype, Shape shape, const ParallelFor& host) {
  if (is_empty(shape)) return;
  const ParallelFor parallel = worthwhile_threads(host, shape);
  const int64_t elements = correction_elements(shape.width, padded_channels(shape, dtype));
  const WorkspaceLease lease(parallel.num_threads, elements * compute_bytes(dtype));
  const CorrectionJob job{shape, x, parameters, y, lease.workspace(), &parallel};
  kernels().spatial_correction_conv[static_cast<int>(dtype)](job);
}

void spatial_correction_conv_backward_cpu(const void* grad_y, const void* x,
                                          CorrectionParameters parameters,
                                          CorrectionGradients gradients, DType dtype, Shape shape,
                                          const ParallelFor& host) {
  const size_t element = compute_bytes(dtype);
  if (is_empty(shape)) {
    fill_zeros(gradients.embed, shape.height * shape.width * shape.channels * element);
    for (void* sums : {gradients.norm_weight, gradients.norm_bias, gradients.conv_bias}) {
      fill_zeros(sums, shape.channels * element);
    }
    fill_zeros(gradients.conv_weight, 9 * shape.channels * element);
    return;
  }
  // Each block computes a row above and below itself once more.
  constexpr int64_t kBlockRows = 8, kMinBlocks = 4;
  const int64_t blocks = std::min(shape.height, std::max(kMinBlocks, shape.height / kBlockRows));
  const ParallelFor parallel = worthwhile_threads(host, shape);
  const int64_t pixel = padded_channels(shape, dtype);
  const WorkspaceLease lease(parallel.num_threads,
                             correction_backward_elements(shape.width, pixel) * element);
  std::vector<double> partial_sums(blocks * 12 * pixel * element / sizeof(double));
  CorrectionBackwardJob job{};
  job.shape = shape;
  job.x = x;
  job.parameters = parameters;
  job.workspace = lease.workspace();
  job.parallel = &parallel;
  job.grad_y = grad_y;
  job.gradients = gradients;
  job.blocks = blocks;
  job.partial_sums = partial_sums.data();
  kernels().spatial_correction_conv_backward[static_cast<int>(dtype)](job);
}

}  // namespace rsvheat
