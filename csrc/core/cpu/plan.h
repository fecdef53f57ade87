// SPDX-License-Identifier: Apache-2.0
// Tables of a one-dimensional transform, shared by all instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "odd_dct4.h"

namespace rsvheat {

// Sizes up to this one are unrolled in registers and need no plan.
inline constexpr int kMaxCodelet = 32;

// Tables of the transforms of length n, which are unnormalized. With c(a) = cos(pi * a / (2 n)):
//   DCT-II  X[k] = sum_i x[i] c((2 i + 1) k)            DCT-III is its transpose
//   DCT-IV  X[k] = sum_i x[i] c((2 i + 1) (2 k + 1) / 2)
// Even n halve (see codelets.inl); odd n beyond the codelets multiply by the even and odd halves
// of the matrix.
template <class T>
struct Plan {
  int n = 0;
  const T* omega_sq = nullptr;  // (i pi / n)^2
  const T* scale = nullptr;     // of the orthonormal coefficient i: sqrt(1 / n), then sqrt(2 / n)
  const T* scale_sq = nullptr;  // its square: a forward and an inverse transform together
  const Plan* half = nullptr;   // of length n / 2, for even n > kMaxCodelet
  // Even n > kMaxCodelet: the DCT-IV rotations. Entry i < n / 2 is cos t, sin t, s cos t, -s sin t
  // with t = pi (2 i + 1) / (4 n), s = (-1)^i.
  const T* rotations = nullptr;
  // Odd n > kMaxCodelet, h = n / 2, row-major: row j of the first is DCT-II row 2 j on x[i] +
  // x[n-1-i] (i < h) and x[h], (h + 1, h + 1); row j of the second is row 2 j + 1 on x[i] -
  // x[n-1-i], (h, h).
  const T* even_rows = nullptr;
  const T* odd_rows = nullptr;
  const OddDct4Entry* odd_dct4 = nullptr;  // n entries
  size_t bytes = 0;                        // of this plan's own tables
  std::shared_ptr<const Plan> half_owner;
  std::unique_ptr<T[]> values;
  std::unique_ptr<OddDct4Entry[]> entries;
};

// The plan of length n in [1, kMaxTransformSize] from the process-wide cache.
template <class T>
std::shared_ptr<const Plan<T>> get_plan(int64_t n);

}  // namespace rsvheat
