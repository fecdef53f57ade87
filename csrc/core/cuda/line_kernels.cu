// SPDX-License-Identifier: Apache-2.0
#include "line_kernel.h"

namespace rsvheat::cuda {
namespace {

bool is_half(int64_t half) {
  return ShortHalves::contains(half) || MediumHalves::contains(half) ||
         LongHalves::contains(half) || LongestHalves::contains(half);
}

}  // namespace

bool line_fits(int64_t size, DType type) {
  return !is_double(type) && size % 2 == 0 && is_half(size / 2);
}

Status run_line_pass(const AxisPass& pass, cudaStream_t stream) {
  LineParams p{};
  p.in = pass.in;
  p.out = pass.out;
  p.in_type = pass.in_type;
  p.out_type = pass.out_type;
  p.lines = pass.outer * pass.inner;
  p.inner = pass.inner;
  p.channels = pass.channels;
  p.forward = pass.forward;
  p.inverse = pass.inverse;
  p.scale0 = float(pass.scale0);
  p.scale = float(pass.scale);
  p.filter = make_filter<float>(pass.coefficients, pass.kind, pass.size, pass.width);

  const int64_t half = pass.size / 2;
  if (ShortHalves::contains(half)) return run_short_lines(p, pass.size, stream);
  if (MediumHalves::contains(half)) return run_medium_lines(p, pass.size, stream);
  if (LongHalves::contains(half)) return run_long_lines(p, pass.size, stream);
  return run_longest_lines(p, pass.size, stream);
}

}  // namespace rsvheat::cuda
