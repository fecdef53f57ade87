// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "../heat_conduction.h"
#include "platform.h"

namespace rsvheat::cuda {

// The per-coefficient factor, as kernels see it.
template <typename Acc>
struct Filter {
  const Acc* data;  // null: none
  int64_t stride_h, stride_w, stride_c;
  // A constant of the class: device code cannot call the library's functions, not even constexpr
  // ones.
  static constexpr Acc kLargest = std::numeric_limits<Acc>::max();
  bool diffusivity;        // data is k, not the filter itself
  Acc omega_h2, omega_w2;  // (pi / H)^2 log2(e), (pi / W)^2 log2(e): exp(-k |omega|^2) is one exp2

  RSVHEAT_DEVICE const Acc* at(int64_t h, int64_t w, int64_t c) const {
    return data + h * stride_h + w * stride_w + c * stride_c;
  }
  // `value` is *at(n, m, c).
  RSVHEAT_DEVICE Acc factor(Acc value, int n, int m) const {
    return diffusivity ? conducted(value, n, m) : value;
  }
  // The factor of a diffusivity.
  RSVHEAT_DEVICE Acc conducted(Acc value, int n, int m) const {
    // An infinite k gives 1 at n = m = 0, else 0; NaN stays.
    if (n == 0 && value > kLargest) value = kLargest;
    return power_of_two(-value * (Acc(n) * Acc(n) * omega_h2 + Acc(m) * Acc(m) * omega_w2));
  }
};

template <typename Acc>
Filter<Acc> make_filter(const Coefficients* coefficients, Conduction kind, int64_t height,
                        int64_t width) {
  if (!coefficients) return {};
  constexpr double kPi = 3.14159265358979323846, kLog2E = 1.44269504088896340736;
  return {static_cast<const Acc*>(coefficients->data),
          coefficients->stride_h,
          coefficients->stride_w,
          coefficients->stride_c,
          kind == Conduction::kDiffusivity,
          Acc(kPi * kPi / (double(height) * double(height)) * kLog2E),
          Acc(kPi * kPi / (double(width) * double(width)) * kLog2E)};
}

}  // namespace rsvheat::cuda
