// SPDX-License-Identifier: Apache-2.0
#include "core/frequency_split.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support.h"

namespace rsvheat::testing {
namespace {

// Per sample: a radius and two ordered angles that lie on no boundary.
struct Sectors {
  Values radius, angles;
};

Sectors random_sectors(int64_t batch, uint32_t seed) {
  Sectors sectors{random_uniform(batch, 0.05, 0.9, DType::kFloat64, seed),
                  random_uniform(2 * batch, 0.0, 90.0, DType::kFloat64, seed + 1)};
  for (int64_t b = 0; b < batch; ++b) {
    if (sectors.angles[2 * b] > sectors.angles[2 * b + 1]) {
      std::swap(sectors.angles[2 * b], sectors.angles[2 * b + 1]);
    }
  }
  return sectors;
}

TEST(FrequencySplit, MatchesItsDefinition) {
  for (const Shape shape : {Shape{4, 16, 16, 3}, Shape{3, 31, 20, 1}, Shape{2, 33, 64, 4},
                            Shape{2, 1, 40, 2}, Shape{2, 40, 1, 2}, Shape{1, 70, 90, 17}}) {
    for (DType dtype : kAllDTypes) {
      const Values x = random_values(count(shape), dtype, /*seed=*/30);
      const Sectors sectors = random_sectors(shape.batch, /*seed=*/31);
      const Array input(dtype, x);
      Array low(dtype, count(shape));
      Array high(dtype, count(shape));
      frequency_split_cpu(input.data(), sectors.radius.data(), sectors.angles.data(), low.data(),
                          high.data(), dtype, shape, kSerial);
      const Bands expected = reference_frequency_split(x, sectors.radius, sectors.angles, shape);
      expect_close_part(low, expected.low, x, "low " + describe(shape));
      expect_close_part(high, expected.high, x, "high " + describe(shape));
    }
  }
}

TEST(FrequencySplit, ZeroRadiusKeepsTheMeanAndRadiusOneKeepsEverything) {
  const Shape shape{2, 9, 12, 2};
  const Values x = random_values(count(shape), DType::kFloat64, /*seed=*/32);
  const Array input(DType::kFloat64, x);
  Array low(DType::kFloat64, count(shape));
  Array high(DType::kFloat64, count(shape));
  const Values radius{0.0, 1.0};
  const Values angles{0.0, 90.0, 0.0, 90.0};
  frequency_split_cpu(input.data(), radius.data(), angles.data(), low.data(), high.data(),
                      DType::kFloat64, shape, kSerial);
  const int64_t plane = shape.height * shape.width;
  const Values low_values = low.values();
  for (int64_t c = 0; c < shape.channels; ++c) {
    double mean = 0;
    for (int64_t i = 0; i < plane; ++i) mean += x[c * plane + i] / static_cast<double>(plane);
    for (int64_t i = 0; i < plane; ++i) EXPECT_NEAR(low_values[c * plane + i], mean, 1e-14);
  }
  const int64_t sample = plane * shape.channels;
  for (int64_t i = sample; i < 2 * sample; ++i) EXPECT_NEAR(low_values[i], x[i], 1e-13);
}

TEST(FrequencySplit, EitherBandMayBeLeftOutAndPartitionsGiveTheSameBits) {
  const Shape shape{3, 33, 20, 5};
  for (DType dtype : kAllDTypes) {
    const Array input(dtype, random_values(count(shape), dtype, /*seed=*/33));
    const Sectors sectors = random_sectors(shape.batch, /*seed=*/34);
    const auto run = [&](void* low, void* high, const ParallelFor& parallel) {
      frequency_split_cpu(input.data(), sectors.radius.data(), sectors.angles.data(), low, high,
                          dtype, shape, parallel);
    };
    Array expected_low(dtype, count(shape));
    Array expected_high(dtype, count(shape));
    run(expected_low.data(), expected_high.data(), kSerial);
    for (const ParallelFor& parallel : partitions()) {
      Array low(dtype, count(shape));
      Array high(dtype, count(shape));
      run(low.data(), high.data(), parallel);
      EXPECT_TRUE(low == expected_low && high == expected_high) << describe(dtype);
      Array low_only(dtype, count(shape));
      run(low_only.data(), nullptr, parallel);
      EXPECT_TRUE(low_only == expected_low) << describe(dtype);
      Array high_only(dtype, count(shape));
      run(nullptr, high_only.data(), parallel);
      EXPECT_TRUE(high_only == expected_high) << describe(dtype);
    }
  }
}

TEST(FrequencySplit, EmptyExtentsWriteNothing) {
  const Values radius{0.5, 0.5};
  const Values angles{0, 90, 0, 90};
  for (const Shape shape :
       {Shape{0, 4, 4, 4}, Shape{2, 0, 4, 4}, Shape{2, 4, 0, 4}, Shape{2, 4, 4, 0}}) {
    frequency_split_cpu(nullptr, radius.data(), angles.data(), nullptr, nullptr, DType::kFloat32,
                        shape, kThreads);
  }
}

bool keeps(double radius, double angle_0, double angle_1, int64_t n, int64_t m, int64_t height,
           int64_t width) {
  std::vector<ColumnRange> ranges(height);
  sector_ranges(radius, angle_0, angle_1, height, width, ranges.data());
  return ranges[n].begin <= m && m < ranges[n].end;
}

TEST(SectorRanges, MatchTheirDefinition) {
  for (const auto& [height, width] :
       {std::pair<int64_t, int64_t>{16, 16}, {31, 7}, {1, 50}, {64, 3}}) {
    for (uint32_t seed = 40; seed < 60; ++seed) {
      const Sectors sectors = random_sectors(1, seed);
      for (int64_t n = 0; n < height; ++n) {
        for (int64_t m = 0; m < width; ++m) {
          const double angle = std::atan2(n, m) * 180 / M_PI;
          const bool inside = (n == 0 && m == 0) ||
                              (std::hypot(n, m) <= sectors.radius[0] * std::hypot(height, width) &&
                               sectors.angles[0] <= angle && angle <= sectors.angles[1]);
          ASSERT_EQ(
              keeps(sectors.radius[0], sectors.angles[0], sectors.angles[1], n, m, height, width),
              inside)
              << n << ", " << m << " of " << height << " x " << width << " seed " << seed;
        }
      }
    }
  }
}

TEST(SectorRanges, BoundariesThatAreExactFallInside) {
  EXPECT_TRUE(keeps(1.0, 45, 45, 7, 7, 16, 16));  // the diagonal
  EXPECT_FALSE(keeps(1.0, 45, 45, 7, 8, 16, 16));
  EXPECT_FALSE(keeps(1.0, 45, 45, 7, 6, 16, 16));
  EXPECT_TRUE(keeps(1.0, 0, 0, 0, 15, 16, 16));  // the first row
  EXPECT_FALSE(keeps(1.0, 0, 0, 1, 15, 16, 16));
  EXPECT_TRUE(keeps(1.0, 90, 90, 15, 0, 16, 16));  // the first column
  EXPECT_FALSE(keeps(1.0, 90, 90, 15, 1, 16, 16));
  // diagonal 50, radius a tenth: (3, 4) lies on the circle.
  EXPECT_TRUE(keeps(0.1, 0, 90, 3, 4, 30, 40));
  EXPECT_TRUE(keeps(0.1, 0, 90, 4, 3, 30, 40));
  EXPECT_TRUE(keeps(0.1, 0, 90, 5, 0, 30, 40));
  EXPECT_FALSE(keeps(0.1, 0, 90, 4, 4, 30, 40));
  EXPECT_TRUE(keeps(0.0, 30, 60, 0, 0, 30, 40));  // DC, whatever the sector
}

}  // namespace
}  // namespace rsvheat::testing
