// SPDX-License-Identifier: Apache-2.0
// Operands of every dtype, errors, threads, and the operators by their definitions in float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/dct.h"
#include "core/frequency_split.h"
#include "core/heat_conduction.h"
#include "core/spectral_l1.h"
#include "core/types.h"

namespace rsvheat::testing {

using Values = std::vector<double>;

inline constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                       DType::kFloat16};
inline constexpr Layout kBothLayouts[] = {Layout::kNhwc, Layout::kNchw};

// The dtype of coefficients that go with an operand of dtype `dtype`.
DType coefficient_dtype(DType dtype);

// ---- Operands -----------------------------------------------------------------------------------

// Elements of one dtype in a heap block of exactly their size, so that AddressSanitizer sees any
// access beyond it. `offset` elements come first: an address aligned to the element and no more.
class Array {
 public:
  // Every byte is 0xff, a NaN in all dtypes: what a kernel forgets to write shows.
  Array(DType dtype, int64_t count, int64_t offset = 0);
  Array(DType dtype, const Values& values, int64_t offset = 0);

  void* data() { return bytes_.data() + offset_bytes_; }
  const void* data() const { return bytes_.data() + offset_bytes_; }
  DType dtype() const { return dtype_; }
  Values values() const;
  bool operator==(const Array& other) const;  // bit for bit

 private:
  DType dtype_;
  size_t offset_bytes_;
  std::vector<std::byte> bytes_;
};

int64_t count(Shape shape);
std::string describe(DType dtype);
std::string describe(Shape shape);

// Normally distributed and rounded to dtype, so that converting loses nothing.
Values random_values(int64_t count, DType dtype, uint32_t seed);
// Uniform in [low, high), rounded to dtype.
Values random_uniform(int64_t count, double low, double high, DType dtype, uint32_t seed);

// ---- Errors -------------------------------------------------------------------------------------

double l2_norm(const Values& values);
double relative_l2_error(const Values& actual, const Values& expected);

// The largest L2 error allowed for `expected` stored in dtype: 2e-6 (float32) or 1e-14 (float64)
// of its norm; in 16 bits, 1.5 times what rounding it once costs.
double tolerance(const Values& expected, DType dtype);

// EXPECTs that the L2 error is within the tolerance.
void expect_close(const Array& actual, const Values& expected, const std::string& what);

// The same for a small part of a transform of `source`, whose rounding errors are those of source.
void expect_close_part(const Array& actual, const Values& expected, const Values& source,
                       const std::string& what);

// ---- Threads ------------------------------------------------------------------------------------

// Ranges one after the other on the calling thread, the last one first.
template <int kRanges>
inline constexpr ParallelFor kCutIn{
    [](int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
      for (int64_t i = kRanges - 1; i >= 0; --i) {
        const int64_t begin = count * i / kRanges;
        const int64_t end = count * (i + 1) / kRanges;
        if (begin < end) body(context, begin, end);
      }
    },
    kRanges};

// Four real threads.
extern const ParallelFor kThreads;

// kSerial and all of the above.
std::vector<ParallelFor> partitions();

// ---- The operators, by their definitions --------------------------------------------------------

Values reference_dct2d(const Values& x, Shape shape, Layout layout, bool inverse);

// |omega|^2 of every (h, w).
Values omega_squared(Shape shape);

// filter (H, W, C) of k (H, W, C).
Values reference_filter(const Values& k, Shape shape);

// idct2d(dct2d(x) * filter), filter (H, W, C).
Values reference_apply_filter(const Values& x, const Values& filter, Shape shape);

struct HeatGradients {
  Values x, coefficients;
};
HeatGradients reference_backward(const Values& grad_y, const Values& x, const Values& coefficients,
                                 Conduction kind, Shape shape);

struct Bands {
  Values low, high;
};
Bands reference_frequency_split(const Values& x, const Values& radius, const Values& angles,
                                Shape shape);

}  // namespace rsvheat::testing
