// SPDX-License-Identifier: Apache-2.0
#include "../spectral_l1.h"

#include <vector>

#include "launch.h"

namespace rsvheat {

void spectral_l1_cpu(const void* pred, const void* target, double* sums, void* grad, DType dtype,
                     Shape shape, const ParallelFor& parallel) {
  sums[0] = sums[1] = 0;
  if (is_empty(shape)) return;
  const size_t element = compute_bytes(dtype);
  const int64_t lanes = static_cast<int64_t>(kernels().vector_bytes / element);
  const int64_t row_groups = (shape.height + lanes - 1) / lanes;
  const int64_t column_groups = (shape.width + lanes - 1) / lanes;
  const int64_t planes = shape.batch * shape.channels;
  std::vector<double> partial_sums(planes * (row_groups + column_groups));
  SpectralL1Job job{};
  job.pred = pred;
  job.target = target;
  job.partial_sums = partial_sums.data();
  job.grad = grad;
  launch(kernels().spectral_l1, job, dtype, shape, Layout::kNchw, {1}, parallel);
  const double* next = partial_sums.data();
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t i = 0; i < row_groups; ++i) sums[0] += *next++;
    for (int64_t i = 0; i < column_groups; ++i) sums[1] += *next++;
  }
}

}  // namespace rsvheat
