// SPDX-License-Identifier: Apache-2.0
#include "../frequency_split.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "launch.h"

namespace rsvheat {

void sector_ranges(double radius, double angle_0, double angle_1, int64_t height, int64_t width,
                   ColumnRange* ranges) {
  constexpr double kTolerance = 1e-9;
  const double radius_sq =
      radius * radius * static_cast<double>(height * height + width * width) * (1 + kTolerance);
  const double to_radians = std::numbers::pi / 180;
  const double cos_0 = std::cos(angle_0 * to_radians), sin_0 = std::sin(angle_0 * to_radians);
  const double cos_1 = std::cos(angle_1 * to_radians), sin_1 = std::sin(angle_1 * to_radians);
  for (int64_t n = 0; n < height; ++n) {
    const auto keeps = [&](int64_t m) {
      const double y = static_cast<double>(n), x = static_cast<double>(m);
      const double slack = kTolerance * (y + x);
      return (n == 0 && m == 0) || (y * y + x * x <= radius_sq && y * cos_0 - x * sin_0 >= -slack &&
                                    y * cos_1 - x * sin_1 <= slack);
    };
    // A convex sector meets a row in one run; DC is a part of it or of its own.
    int64_t begin = 0;
    while (begin < width && !keeps(begin)) ++begin;
    int64_t end = begin;
    while (end < width && keeps(end)) ++end;
    ranges[n] = {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
  }
}

void frequency_split_cpu(const void* x, const double* radius, const double* angles, void* low,
                         void* high, DType dtype, Shape shape, const ParallelFor& parallel) {
  if (is_empty(shape)) return;
  std::vector<ColumnRange> ranges(shape.batch * shape.height);
  for (int64_t b = 0; b < shape.batch; ++b) {
    sector_ranges(radius[b], angles[2 * b], angles[2 * b + 1], shape.height, shape.width,
                  ranges.data() + b * shape.height);
  }
  SplitJob job{};
  job.x = x;
  job.ranges = ranges.data();
  job.low = low;
  job.high = high;
  launch(kernels().frequency_split, job, dtype, shape, Layout::kNchw, {1}, parallel);
}

}  // namespace rsvheat
