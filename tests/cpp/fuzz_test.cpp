// SPDX-License-Identifier: Apache-2.0
// Random operators, shapes, strides, dtypes, alignments and partitions against the definitions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/dct.h"
#include "core/frequency_split.h"
#include "core/heat_conduction.h"
#include "core/spectral_l1.h"
#include "support.h"

namespace rsvheat::testing {
namespace {

class Fuzz {
 public:
  explicit Fuzz(uint32_t seed) : engine_(seed), seed_(seed) {
    dtype_ = kAllDTypes[below(4)];
    // Few elements in all, so that many cases fit in a second: long axes come with short others.
    shape_ = {1 + below(3), extent(), 1, 1 + below(below(4) == 0 ? 70 : 9)};
    shape_.width = std::max<int64_t>(
        1, std::min(extent(), 6000 / (shape_.height * shape_.channels * shape_.batch)));
    if (below(2)) std::swap(shape_.height, shape_.width);
    const std::vector<ParallelFor> all = partitions();
    parallel_ = all[below(static_cast<int64_t>(all.size()))];
  }

  void run() {
    switch (below(4)) {
      case 0:
        return dct();
      case 1:
        return heat();
      case 2:
        return split();
      default:
        return spectral();
    }
  }

  std::string what() const { return "seed " + std::to_string(seed_) + " " + describe(shape_); }

 private:
  int64_t below(int64_t bound) {
    return std::uniform_int_distribution<int64_t>(0, bound - 1)(engine_);
  }

  int64_t extent() {
    switch (below(4)) {
      case 0:
        return 1 + below(8);
      case 1:
        return int64_t{1} << below(9);
      default:
        return 1 + below(300);
    }
  }

  Array array(const Values& values) { return {dtype_, values, below(3)}; }
  Array output() { return {dtype_, count(shape_), below(3)}; }

  void dct() {
    const Values x = random_values(count(shape_), dtype_, seed_);
    const Layout layout = kBothLayouts[below(2)];
    const bool inverse = below(2);
    const Array input = array(x);
    Array y = output();
    dct2d_cpu(input.data(), y.data(), dtype_, shape_, layout, inverse, parallel_);
    expect_close(y, reference_dct2d(x, shape_, layout, inverse), "dct2d " + what());
  }

  void heat() {
    const Values x = random_values(count(shape_), dtype_, seed_);
    const Values grad_y = random_values(count(shape_), dtype_, seed_ + 1);
    const DType own_dtype = coefficient_dtype(dtype_);
    const int64_t h = below(2) ? shape_.height : 1;
    const int64_t w = below(2) ? shape_.width : 1;
    const int64_t c = below(2) ? shape_.channels : 1;
    // A row pitch beyond the row, as a view of a larger table has.
    const int64_t pitch = w * c + below(4);
    const Values stored = random_uniform(h * pitch, 0.0, 1.0, own_dtype, seed_ + 2);
    const Array held(own_dtype, stored, below(3));
    const Coefficients view{held.data(), h > 1 ? pitch : 0, w > 1 ? c : 0, c > 1 ? 1 : 0};
    Values full;
    for (int64_t i = 0; i < shape_.height; ++i) {
      for (int64_t j = 0; j < shape_.width; ++j) {
        for (int64_t l = 0; l < shape_.channels; ++l) {
          full.push_back(stored[i * view.stride_h + j * view.stride_w + l * view.stride_c]);
        }
      }
    }
    const Conduction kind = below(2) ? Conduction::kFilter : Conduction::kDiffusivity;
    const Values filter = kind == Conduction::kFilter ? full : reference_filter(full, shape_);
    const Array input = array(x);
    const Array grad_input = array(grad_y);
    Array y = output();
    Array grad_x = output();
    Array grad(own_dtype, static_cast<int64_t>(full.size()), below(3));
    EXPECT_TRUE(heat_conduction_cpu(input.data(), view, kind, y.data(), dtype_, shape_, parallel_));
    heat_conduction_backward_cpu(grad_input.data(), input.data(), view, kind, grad_x.data(),
                                 grad.data(), dtype_, shape_, parallel_);
    const HeatGradients expected = reference_backward(grad_y, x, full, kind, shape_);
    expect_close(y, reference_apply_filter(x, filter, shape_), "heat_conduction " + what());
    expect_close(grad_x, expected.x, "grad_x " + what());
    expect_close(grad, expected.coefficients, "grad_coefficients " + what());
  }

  void split() {
    const Values x = random_values(count(shape_), dtype_, seed_);
    const Values radius = random_uniform(shape_.batch, 0.0, 1.0, DType::kFloat64, seed_ + 1);
    Values angles = random_uniform(2 * shape_.batch, 0.0, 90.0, DType::kFloat64, seed_ + 2);
    for (size_t i = 0; i < angles.size(); i += 2) {
      if (angles[i] > angles[i + 1]) std::swap(angles[i], angles[i + 1]);
    }
    const Array input = array(x);
    Array low = output();
    Array high = output();
    frequency_split_cpu(input.data(), radius.data(), angles.data(), low.data(), high.data(), dtype_,
                        shape_, parallel_);
    const Bands expected = reference_frequency_split(x, radius, angles, shape_);
    expect_close_part(low, expected.low, x, "low " + what());
    expect_close_part(high, expected.high, x, "high " + what());
  }

  void spectral() {
    const Values pred = random_values(count(shape_), dtype_, seed_);
    const Values target = random_values(count(shape_), dtype_, seed_ + 1);
    const Array input = array(pred);
    const Array other = array(target);
    Array grad = output();
    double sums[2];
    spectral_l1_cpu(input.data(), other.data(), sums, grad.data(), dtype_, shape_, parallel_);
    Values d(pred.size());
    for (size_t i = 0; i < d.size(); ++i) d[i] = pred[i] - target[i];
    double expected[2] = {0, 0};
    for (double value : d) expected[0] += std::fabs(value);
    for (double value : reference_dct2d(d, shape_, Layout::kNchw, /*inverse=*/false)) {
      expected[1] += std::fabs(value);
    }
    for (int i = 0; i < 2; ++i) {
      EXPECT_NEAR(sums[i], expected[i], (dtype_ == DType::kFloat64 ? 1e-13 : 2e-6) * expected[i])
          << what();
    }
    // Signs have energy one each; float32 rounding may flip few, and changes no energy.
    double energy = 0;
    for (double value : grad.values()) energy += value * value;
    EXPECT_NEAR(energy, static_cast<double>(d.size()), 0.01 * static_cast<double>(d.size()))
        << what();
  }

  std::mt19937 engine_;
  uint32_t seed_;
  DType dtype_;
  Shape shape_;
  ParallelFor parallel_;
};

TEST(Fuzz, RandomCasesMatchTheDefinitions) {
  for (uint32_t seed = 1000; seed < 1400 && !HasFailure(); ++seed) Fuzz(seed).run();
}

}  // namespace
}  // namespace rsvheat::testing
