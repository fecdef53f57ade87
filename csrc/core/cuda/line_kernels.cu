// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "line_kernel.h"

namespace rsvheat::cuda {
namespace {

// Indices of lines and strides of points have 32 bits in the kernels.
constexpr int64_t kMostElements = int64_t(1) << 29;

bool wide(const void* data, DType type, int64_t inner, int64_t pitch) {
  const int64_t length = 16 / int64_t(storage_size(type));
  return is_aligned(data) && inner % length == 0 && pitch % length == 0;
}

bool wide_filter(const Filter<float>& filter, int64_t channels) {
  constexpr int kLongest = kVector<__half>;
  return !filter.data ||
         (is_aligned(filter.data) && filter.stride_c == 1 && channels % kLongest == 0 &&
          filter.stride_h % 4 == 0 && filter.stride_w % 4 == 0 && filter.stride_h < kMostElements);
}

}  // namespace

bool is_line_size(int64_t size, DType type) {
  return !is_double(type) && size % 4 == 0 &&
         (ShortQuarters::contains(size / 4) || LongQuarters::contains(size / 4));
}

bool line_fits(const AxisPass& pass, DType type) {
  // Where the kernels know filters.
  const bool filtered = pass.inverse && (pass.forward || pass.in_type == DType::kFloat32);
  return is_line_size(pass.size, type) && (filtered || !pass.coefficients) &&
         std::max({pass.in_pitch, pass.out_pitch, pass.outer * pass.inner}) < kMostElements;
}

Status run_line_pass(const AxisPass& pass, cudaStream_t stream) {
  LineParams p{};
  p.in = pass.in;
  p.out = pass.out;
  p.in_type = pass.in_type;
  p.out_type = pass.out_type;
  p.lines = unsigned(pass.outer * pass.inner);
  p.inner = unsigned(pass.inner);
  p.in_pitch = unsigned(pass.in_pitch);
  p.out_pitch = unsigned(pass.out_pitch);
  p.channels = unsigned(pass.channels);
  p.forward = pass.forward;
  p.inverse = pass.inverse;
  p.scale0 = float(pass.scale0);
  p.scale = float(pass.scale);
  p.filter = make_filter<float>(pass.coefficients, pass.kind, pass.size, pass.width);
  p.wide_in = wide(pass.in, pass.in_type, pass.inner, pass.in_pitch);
  p.wide_out = wide(pass.out, pass.out_type, pass.inner, pass.out_pitch);
  p.wide_filter = wide_filter(p.filter, pass.channels);

  const int quarter = int(pass.size / 4);
  return ShortQuarters::contains(quarter) ? run_short_lines(p, quarter, stream)
                                          : run_long_lines(p, quarter, stream);
}

}  // namespace rsvheat::cuda
