// SPDX-License-Identifier: Apache-2.0
// frequency_split and spectral_l1, which share the FFT pipeline.
#include "kernels.h"

namespace rsvheat::testing {
namespace {

TEST(CudaFrequencySplit, MatchesItsDefinition) {
  for (const Shape shape : {Shape{4, 16, 16, 3}, Shape{3, 31, 20, 1}, Shape{2, 1, 40, 2},
                            Shape{2, 40, 1, 2}, Shape{2, 33, 48, 2}}) {
    for (DType dtype : kAllDTypes) {
      const Values x = random_values(count(shape), dtype, /*seed=*/30);
      const Values radius = random_uniform(shape.batch, 0.05, 0.9, DType::kFloat64, /*seed=*/31);
      Values angles = random_uniform(2 * shape.batch, 0.0, 90.0, DType::kFloat64, /*seed=*/32);
      for (int64_t b = 0; b < shape.batch; ++b)
        if (angles[2 * b] > angles[2 * b + 1]) std::swap(angles[2 * b], angles[2 * b + 1]);
      const Array input(dtype, x);
      Array low(dtype, count(shape)), high(dtype, count(shape)), only_high(dtype, count(shape));
      for (const bool both : {true, false})
        call(
            [&](size_t* bytes) {
              return frequency_split_cuda_workspace(shape, dtype, nullptr, bytes);
            },
            [&](void* workspace) {
              return frequency_split_cuda(
                  input.data(), radius.data(), angles.data(), both ? low.data() : nullptr,
                  both ? high.data() : only_high.data(), dtype, shape, workspace, nullptr);
            });
      const Bands expected = reference_frequency_split(x, radius, angles, shape);
      expect_close(low, expected.low, "low " + describe(shape));
      expect_close(high, expected.high, "high " + describe(shape));
      EXPECT_TRUE(high == only_high);
    }
  }
}

TEST(CudaFrequencySplit, KeepsExactBoundariesAsTheCpuDoes) {
  // 45 degrees and the 3-4-5 radius 5 / sqrt(H^2 + W^2) pass through coefficients.
  const Shape shape{3, 12, 16, 1};
  const Values radius{0.25, 1.0, 0.25}, angles{0.0, 90.0, 0.0, 45.0, 45.0, 90.0};
  const Values x = random_values(count(shape), DType::kFloat64, /*seed=*/33);
  const Array input(DType::kFloat64, x);
  Array low(DType::kFloat64, count(shape)), high(DType::kFloat64, count(shape));
  call(
      [&](size_t* bytes) {
        return frequency_split_cuda_workspace(shape, DType::kFloat64, nullptr, bytes);
      },
      [&](void* workspace) {
        return frequency_split_cuda(input.data(), radius.data(), angles.data(), low.data(),
                                    high.data(), DType::kFloat64, shape, workspace, nullptr);
      });
  const Values kept = reference_dct2d(low.values(), shape, Layout::kNchw, /*inverse=*/false);
  std::vector<ColumnRange> ranges(shape.height);
  for (int64_t b = 0, i = 0; b < shape.batch; ++b) {
    sector_ranges(radius[b], angles[2 * b], angles[2 * b + 1], shape.height, shape.width,
                  ranges.data());
    for (int64_t n = 0; n < shape.height; ++n)
      for (int64_t m = 0; m < shape.width; ++m, ++i)
        EXPECT_EQ(std::fabs(kept[i]) > 1e-10, m >= ranges[n].begin && m < ranges[n].end)
            << b << " " << n << " " << m;
  }
}

struct L1 {
  double spatial, spectral;
  Array grad;
};

L1 spectral_l1(const Array& pred, const Array& target, Shape shape, bool with_grad) {
  const DType dtype = pred.dtype();
  Array spatial(coefficient_dtype(dtype), 1), spectral(coefficient_dtype(dtype), 1);
  Array grad(dtype, with_grad ? count(shape) : 0);
  call([&](size_t* bytes) { return spectral_l1_cuda_workspace(shape, dtype, nullptr, bytes); },
       [&](void* workspace) {
         return spectral_l1_cuda(pred.data(), target.data(), spatial.data(), spectral.data(),
                                 with_grad ? grad.data() : nullptr, dtype, shape, workspace,
                                 nullptr);
       });
  return {spatial.values()[0], spectral.values()[0], grad};
}

TEST(CudaSpectralL1, MatchesItsDefinition) {
  for (const Shape shape : {Shape{2, 16, 16, 3}, Shape{1, 31, 20, 1}, Shape{2, 33, 48, 2},
                            Shape{1, 7, 1, 20}, Shape{3, 1, 1, 2}}) {
    for (DType dtype : kAllDTypes) {
      const Values pred = random_values(count(shape), dtype, /*seed=*/50);
      const Values target = random_values(count(shape), dtype, /*seed=*/51);
      const L1 result = spectral_l1(Array(dtype, pred), Array(dtype, target), shape, true);
      Values d(pred.size());
      for (size_t i = 0; i < d.size(); ++i) d[i] = pred[i] - target[i];
      const Values spectrum = reference_dct2d(d, shape, Layout::kNchw, /*inverse=*/false);
      double spatial = 0, spectral = 0;
      for (double value : d) spatial += std::fabs(value);
      for (double value : spectrum) spectral += std::fabs(value);
      const double relative = dtype == DType::kFloat64 ? 1e-14 : 1e-6;
      EXPECT_NEAR(result.spatial, spatial, relative * spatial) << describe(dtype);
      EXPECT_NEAR(result.spectral, spectral, relative * spectral) << describe(dtype);
      // The gradient's own transform must be the signs, wherever rounding cannot have flipped one.
      const Values signs =
          reference_dct2d(result.grad.values(), shape, Layout::kNchw, /*inverse=*/false);
      for (size_t i = 0; i < signs.size(); ++i) {
        if (std::fabs(spectrum[i]) < 1e-4) continue;
        EXPECT_NEAR(signs[i], std::copysign(1.0, spectrum[i]), 0.05)
            << describe(dtype) << " " << describe(shape) << " at " << i;
      }
      // The sums do not depend on the gradient.
      const L1 sums = spectral_l1(Array(dtype, pred), Array(dtype, target), shape, false);
      EXPECT_EQ(sums.spatial, result.spatial);
      EXPECT_EQ(sums.spectral, result.spectral);
    }
  }
}

TEST(CudaSpectralL1, IsZeroForEqualAndForEmptyInputs) {
  const Shape shape{2, 12, 9, 3};
  const Array x(DType::kFloat32, random_values(count(shape), DType::kFloat32, /*seed=*/52));
  const L1 equal = spectral_l1(x, x, shape, true);
  EXPECT_EQ(equal.spatial, 0.0);
  EXPECT_EQ(equal.spectral, 0.0);
  EXPECT_EQ(equal.grad.values(), Values(count(shape), 0.0));
  const Array nothing(DType::kFloat32, 0);
  const L1 empty = spectral_l1(nothing, nothing, {0, 12, 9, 3}, true);
  EXPECT_EQ(empty.spatial, 0.0);
  EXPECT_EQ(empty.spectral, 0.0);
}

}  // namespace
}  // namespace rsvheat::testing
