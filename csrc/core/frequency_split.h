// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "export.h"
#include "types.h"

namespace rsvheat {

// Splits every image of an NCHW batch into a low and a high band that add up to it.
// `low` keeps the DCT coefficients (n, m) of the sector around DC with
//   n^2 + m^2 <= (radius * sqrt(H^2 + W^2))^2   and   angle_0 <= atan2(n, m) <= angle_1,
// DC always included; high = x - low. `radius` holds `batch` values, `angles` 2 * batch degrees
// in [0, 90] with angle_0 <= angle_1, both per sample. Either output may be null.
// low and high must not overlap x or each other. Memory and thread-safety as for dct2d_cpu.
RSVHEAT_API void frequency_split_cpu(const void* x, const double* radius, const double* angles,
                                     void* low, void* high, DType dtype, Shape shape,
                                     const ParallelFor& parallel);

// The columns kept in one row of the sector: low keeps m in [begin, end) of row n. Exposed because
// every implementation of the mask (CPU, CUDA, the tests) must agree to the last coefficient.
struct ColumnRange {
  int32_t begin, end;
};

// ranges: height entries. The comparisons carry a relative tolerance of 1e-9 so that boundaries
// which are exact in real arithmetic (45 degrees, 3-4-5 radii) fall inside.
RSVHEAT_API void sector_ranges(double radius, double angle_0, double angle_1, int64_t height,
                               int64_t width, ColumnRange* ranges);

}  // namespace rsvheat
