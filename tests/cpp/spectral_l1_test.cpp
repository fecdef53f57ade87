// SPDX-License-Identifier: Apache-2.0
#include "core/spectral_l1.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support.h"

namespace rsvheat::testing {
namespace {

TEST(SpectralL1, MatchesItsDefinition) {
  for (const Shape shape : {Shape{2, 16, 16, 3}, Shape{1, 31, 20, 1}, Shape{2, 33, 48, 4},
                            Shape{1, 7, 1, 20}, Shape{3, 1, 1, 2}}) {
    for (DType dtype : kAllDTypes) {
      const Values pred = random_values(count(shape), dtype, /*seed=*/50);
      const Values target = random_values(count(shape), dtype, /*seed=*/51);
      const Array input(dtype, pred);
      const Array other(dtype, target);
      Array grad(dtype, count(shape));
      double sums[2] = {-1, -1};
      spectral_l1_cpu(input.data(), other.data(), sums, grad.data(), dtype, shape, kSerial);

      Values d(pred.size());
      for (size_t i = 0; i < d.size(); ++i) d[i] = pred[i] - target[i];
      const Values spectrum = reference_dct2d(d, shape, Layout::kNchw, /*inverse=*/false);
      double spatial_sum = 0;
      double spectral_sum = 0;
      for (double value : d) spatial_sum += std::fabs(value);
      for (double value : spectrum) spectral_sum += std::fabs(value);
      const double relative = dtype == DType::kFloat64 ? 1e-14 : 1e-6;
      EXPECT_NEAR(sums[0], spatial_sum, relative * spatial_sum) << describe(dtype);
      EXPECT_NEAR(sums[1], spectral_sum, relative * spectral_sum) << describe(dtype);

      // The gradient's own transform must be the signs, wherever rounding cannot have flipped one.
      const Values signs = reference_dct2d(grad.values(), shape, Layout::kNchw, /*inverse=*/false);
      for (size_t i = 0; i < signs.size(); ++i) {
        if (std::fabs(spectrum[i]) < 1e-4) continue;
        EXPECT_NEAR(signs[i], std::copysign(1.0, spectrum[i]), 0.05)
            << describe(dtype) << " " << describe(shape) << " at " << i;
      }
    }
  }
}

TEST(SpectralL1, IsZeroWithAZeroGradientForEqualInputs) {
  const Shape shape{2, 12, 9, 3};
  for (DType dtype : kAllDTypes) {
    const Array input(dtype, random_values(count(shape), dtype, /*seed=*/52));
    Array grad(dtype, count(shape));
    double sums[2] = {-1, -1};
    spectral_l1_cpu(input.data(), input.data(), sums, grad.data(), dtype, shape, kSerial);
    EXPECT_EQ(sums[0], 0.0);
    EXPECT_EQ(sums[1], 0.0);
    for (double value : grad.values()) EXPECT_EQ(value, 0.0);
  }
}

TEST(SpectralL1, BitsDoNotDependOnThePartitionOrOnTheGradient) {
  for (const Shape shape : {Shape{5, 33, 20, 3}, Shape{1, 64, 50, 1}}) {
    for (DType dtype : kAllDTypes) {
      const Array pred(dtype, random_values(count(shape), dtype, /*seed=*/53));
      const Array target(dtype, random_values(count(shape), dtype, /*seed=*/54));
      Array expected(dtype, count(shape));
      double expected_sums[2];
      spectral_l1_cpu(pred.data(), target.data(), expected_sums, expected.data(), dtype, shape,
                      kSerial);
      for (const ParallelFor& parallel : partitions()) {
        Array grad(dtype, count(shape));
        double sums[2];
        double sums_only[2];
        spectral_l1_cpu(pred.data(), target.data(), sums, grad.data(), dtype, shape, parallel);
        spectral_l1_cpu(pred.data(), target.data(), sums_only, nullptr, dtype, shape, parallel);
        EXPECT_TRUE(grad == expected) << describe(dtype) << " " << describe(shape);
        for (int i = 0; i < 2; ++i) {
          EXPECT_EQ(sums[i], expected_sums[i]) << describe(dtype) << " " << describe(shape);
          EXPECT_EQ(sums_only[i], expected_sums[i]) << describe(dtype) << " " << describe(shape);
        }
      }
    }
  }
}

TEST(SpectralL1, EmptyInputsSumToZero) {
  for (const Shape shape :
       {Shape{0, 4, 4, 4}, Shape{2, 0, 4, 4}, Shape{2, 4, 0, 4}, Shape{2, 4, 4, 0}}) {
    double sums[2] = {-1, -1};
    spectral_l1_cpu(nullptr, nullptr, sums, nullptr, DType::kFloat32, shape, kThreads);
    EXPECT_EQ(sums[0], 0.0);
    EXPECT_EQ(sums[1], 0.0);
  }
}

}  // namespace
}  // namespace rsvheat::testing
