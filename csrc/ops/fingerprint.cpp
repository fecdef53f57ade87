// SPDX-License-Identifier: Apache-2.0
#include "core/fingerprint.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

// Whether the elements fill a range of memory, in whatever order of axes.
bool fills_its_range(const Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> axes;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) != 1) axes.emplace_back(tensor.stride(i), tensor.size(i));
  }
  std::sort(axes.begin(), axes.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : axes) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

int64_t fingerprint(const Tensor& any_strides) {
  const Tensor x = any_strides.is_contiguous() || fills_its_range(any_strides)
                       ? any_strides
                       : torch::stable::contiguous(any_strides);
  return run_kernel("_fingerprint", [&](const ParallelFor& parallel) {
    const auto bytes = static_cast<size_t>(x.numel()) * x.element_size();
    return std::bit_cast<int64_t>(fingerprint_cpu(x.const_data_ptr(), bytes, parallel));
  });
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("_fingerprint", TORCH_BOX(&rsvheat::fingerprint));
}
