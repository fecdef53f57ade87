// SPDX-License-Identifier: Apache-2.0
#include "core/heat_conduction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support.h"

namespace rsvheat::testing {
namespace {

// Coefficients that vary along some axes only, as the kernel reads them and written out in full.
struct CoefficientCase {
  Array array;
  Coefficients view;
  Values full;  // (H, W, C)
};

CoefficientCase make_coefficients(Shape shape, bool vary_h, bool vary_w, bool vary_c, DType dtype,
                                  Conduction kind, uint32_t seed) {
  const int64_t h = vary_h ? shape.height : 1;
  const int64_t w = vary_w ? shape.width : 1;
  const int64_t c = vary_c ? shape.channels : 1;
  const DType own_dtype = coefficient_dtype(dtype);
  // Diffusivities from nearly none to all but the mean gone; filters of both signs.
  const Values values = kind == Conduction::kDiffusivity
                            ? random_uniform(h * w * c, 0.0, 3.0, own_dtype, seed)
                            : random_uniform(h * w * c, -1.0, 1.0, own_dtype, seed);
  CoefficientCase result{Array(own_dtype, values), {}, {}};
  result.view = {nullptr, vary_h ? w * c : 0, vary_w ? c : 0, vary_c ? 1 : 0};
  for (int64_t i = 0; i < shape.height; ++i) {
    for (int64_t j = 0; j < shape.width; ++j) {
      for (int64_t l = 0; l < shape.channels; ++l) {
        result.full.push_back(
            values[i * result.view.stride_h + j * result.view.stride_w + l * result.view.stride_c]);
      }
    }
  }
  return result;
}

Coefficients view_of(const CoefficientCase& coefficients) {
  Coefficients view = coefficients.view;
  view.data = coefficients.array.data();
  return view;
}

Values filter_of(const CoefficientCase& coefficients, Conduction kind, Shape shape) {
  return kind == Conduction::kFilter ? coefficients.full
                                     : reference_filter(coefficients.full, shape);
}

constexpr Conduction kBothKinds[] = {Conduction::kDiffusivity, Conduction::kFilter};

TEST(HeatConduction, MatchesItsDefinitionForEveryStridePattern) {
  for (const Shape shape : {Shape{2, 7, 9, 21}, Shape{1, 16, 8, 3}, Shape{3, 40, 5, 1}}) {
    for (DType dtype : kAllDTypes) {
      for (Conduction kind : kBothKinds) {
        for (int pattern = 0; pattern < 8; ++pattern) {
          const CoefficientCase coefficients =
              make_coefficients(shape, pattern & 1, pattern & 2, pattern & 4, dtype, kind, 10);
          const Values x = random_values(count(shape), dtype, /*seed=*/11);
          const Array input(dtype, x);
          Array y(dtype, count(shape));
          EXPECT_TRUE(heat_conduction_cpu(input.data(), view_of(coefficients), kind, y.data(),
                                          dtype, shape, kSerial));
          expect_close(y, reference_apply_filter(x, filter_of(coefficients, kind, shape), shape),
                       describe(shape) + " pattern " + std::to_string(pattern));
        }
      }
    }
  }
}

TEST(HeatConduction, MatchesItsDefinitionForEveryExtentUpTo64) {
  for (int64_t n = 1; n <= 64; ++n) {
    const Shape shape{1, n, 65 - n, 3};
    const Values x = random_values(count(shape), DType::kFloat32, /*seed=*/12);
    const Array input(DType::kFloat32, x);
    const CoefficientCase k =
        make_coefficients(shape, true, true, true, DType::kFloat32, Conduction::kDiffusivity, 13);
    Array y(DType::kFloat32, count(shape));
    EXPECT_TRUE(heat_conduction_cpu(input.data(), view_of(k), Conduction::kDiffusivity, y.data(),
                                    DType::kFloat32, shape, kSerial));
    expect_close(y, reference_apply_filter(x, reference_filter(k.full, shape), shape),
                 describe(shape));
  }
}

// Beyond the cache on every instruction set, so that planes are taken in strips; the last strip and
// the last register are in part.
TEST(HeatConduction, MatchesItsDefinitionOnPlanesThatExceedTheCache) {
  const Shape shape{1, 400, 401, 3};
  // Exact in every dtype of the loop.
  const Values x = random_values(count(shape), DType::kBFloat16, /*seed=*/40);
  const CoefficientCase single =
      make_coefficients(shape, true, true, true, DType::kFloat32, Conduction::kDiffusivity, 41);
  const Values expected = reference_apply_filter(x, reference_filter(single.full, shape), shape);
  for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const Array input(dtype, x);
    const Array k(coefficient_dtype(dtype), single.full);
    Array y(dtype, count(shape));
    EXPECT_TRUE(heat_conduction_cpu(input.data(), {k.data(), 401 * 3, 3, 1},
                                    Conduction::kDiffusivity, y.data(), dtype, shape, kThreads));
    expect_close(y, expected, describe(dtype));
  }
}

TEST(HeatConduction, ReportsNegativeDiffusivityOnPlanesThatExceedTheCache) {
  const Shape shape{1, 400, 401, 3};
  const Array input(DType::kFloat32, random_values(count(shape), DType::kFloat32, /*seed=*/42));
  Values k(count(shape), 0.5);
  k[count(shape) - 1] = -1e-3;
  const Array held(DType::kFloat32, k);
  Array y(DType::kFloat32, count(shape));
  EXPECT_FALSE(heat_conduction_cpu(input.data(), {held.data(), 401 * 3, 3, 1},
                                   Conduction::kDiffusivity, y.data(), DType::kFloat32, shape,
                                   kThreads));
}

TEST(HeatConduction, ZeroDiffusivityIsTheIdentity) {
  const Shape shape{2, 14, 15, 18};
  const double zero = 0.0;
  const Values x = random_values(count(shape), DType::kFloat64, /*seed=*/14);
  const Array input(DType::kFloat64, x);
  Array y(DType::kFloat64, count(shape));
  EXPECT_TRUE(heat_conduction_cpu(input.data(), {&zero, 0, 0, 0}, Conduction::kDiffusivity,
                                  y.data(), DType::kFloat64, shape, kSerial));
  expect_close(y, x, "k = 0");
}

TEST(HeatConduction, LargeDiffusivityLeavesTheMean) {
  const Shape shape{1, 12, 10, 5};
  const Values x = random_values(count(shape), DType::kFloat32, /*seed=*/15);
  Values means(shape.channels, 0.0);
  for (size_t i = 0; i < x.size(); ++i) means[i % shape.channels] += x[i] / (12 * 10);
  Values expected(x.size());
  for (size_t i = 0; i < x.size(); ++i) expected[i] = means[i % shape.channels];
  for (DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Array input(dtype, x);
    for (double huge : {1e30, std::numeric_limits<double>::infinity()}) {
      const Array k(dtype, Values{huge});
      Array y(dtype, count(shape));
      EXPECT_TRUE(heat_conduction_cpu(input.data(), {k.data(), 0, 0, 0}, Conduction::kDiffusivity,
                                      y.data(), dtype, shape, kSerial));
      expect_close(y, expected, "k = " + std::to_string(huge));
    }
  }
}

TEST(HeatConduction, ReportsNegativeAndNanDiffusivityAnywhere) {
  const Shape shape{2, 6, 7, 19};
  for (DType dtype : kAllDTypes) {
    const Array input(dtype, random_values(count(shape), dtype, /*seed=*/16));
    for (double bad : {-1e-3, std::numeric_limits<double>::quiet_NaN()}) {
      for (int64_t at : {0, 18, 19, 6 * 19, 6 * 7 * 19 - 1}) {
        Values k(6 * 7 * 19, 0.5);
        k[at] = bad;
        const Array held(coefficient_dtype(dtype), k);
        for (const ParallelFor& parallel : partitions()) {
          Array y(dtype, count(shape));
          EXPECT_FALSE(heat_conduction_cpu(input.data(), {held.data(), 7 * 19, 19, 1},
                                           Conduction::kDiffusivity, y.data(), dtype, shape,
                                           parallel))
              << describe(dtype) << ": " << bad << " at " << at;
        }
      }
    }
    for (double odd : {-1.0, 2.0}) {  // a filter may hold anything
      const Array held(coefficient_dtype(dtype), Values{odd});
      Array y(dtype, count(shape));
      EXPECT_TRUE(heat_conduction_cpu(input.data(), {held.data(), 0, 0, 0}, Conduction::kFilter,
                                      y.data(), dtype, shape, kSerial));
    }
  }
}

// Large planes take seconds each under sanitizers: a type of each width, one kind, few partitions.
bool is_large(const Shape& shape) { return shape.height >= 200; }
bool is_tried(const Shape& shape, DType dtype, Conduction kind = Conduction::kDiffusivity) {
  return !is_large(shape) || (kind == Conduction::kDiffusivity &&
                              (dtype == DType::kFloat32 || dtype == DType::kBFloat16));
}
std::vector<ParallelFor> partitions_of(const Shape& shape) {
  return is_large(shape) ? std::vector<ParallelFor>{kCutIn<3>, kThreads} : partitions();
}

TEST(HeatConduction, InPlaceAndEveryPartitionGiveTheSameBits) {
  // The last one exceeds the cache.
  for (const Shape shape :
       {Shape{3, 14, 20, 35}, Shape{1, 64, 40, 80}, Shape{5, 9, 9, 2}, Shape{2, 380, 381, 5}}) {
    for (DType dtype : kAllDTypes) {
      if (!is_tried(shape, dtype)) continue;
      const CoefficientCase k =
          make_coefficients(shape, true, true, true, dtype, Conduction::kDiffusivity, 17);
      const Array input(dtype, random_values(count(shape), dtype, /*seed=*/18));
      Array expected(dtype, count(shape));
      heat_conduction_cpu(input.data(), view_of(k), Conduction::kDiffusivity, expected.data(),
                          dtype, shape, kSerial);
      for (const ParallelFor& parallel : partitions_of(shape)) {
        Array y = input;
        heat_conduction_cpu(y.data(), view_of(k), Conduction::kDiffusivity, y.data(), dtype, shape,
                            parallel);
        EXPECT_TRUE(y == expected) << describe(dtype) << " " << describe(shape) << " in "
                                   << parallel.num_threads << " ranges";
      }
    }
  }
}

TEST(HeatConductionBackward, MatchesItsDefinitionForEveryStridePattern) {
  for (const Shape shape : {Shape{2, 7, 9, 21}, Shape{3, 36, 4, 2}}) {
    for (DType dtype : kAllDTypes) {
      for (Conduction kind : kBothKinds) {
        for (int pattern = 0; pattern < 8; ++pattern) {
          const CoefficientCase coefficients =
              make_coefficients(shape, pattern & 1, pattern & 2, pattern & 4, dtype, kind, 20);
          const Values x = random_values(count(shape), dtype, /*seed=*/21);
          const Values grad_y = random_values(count(shape), dtype, /*seed=*/22);
          const Array input(dtype, x);
          const Array grad_input(dtype, grad_y);
          Array grad_x(dtype, count(shape));
          Array grad_coefficients(coefficient_dtype(dtype),
                                  static_cast<int64_t>(coefficients.full.size()));
          heat_conduction_backward_cpu(grad_input.data(), input.data(), view_of(coefficients), kind,
                                       grad_x.data(), grad_coefficients.data(), dtype, shape,
                                       kSerial);
          const HeatGradients expected =
              reference_backward(grad_y, x, coefficients.full, kind, shape);
          const std::string what = describe(shape) + " pattern " + std::to_string(pattern);
          expect_close(grad_x, expected.x, "grad_x " + what);
          expect_close(grad_coefficients, expected.coefficients, "grad_coefficients " + what);
        }
      }
    }
  }
}

TEST(HeatConductionBackward, MatchesItsDefinitionOnPlanesThatExceedTheCache) {
  for (const Shape shape : {Shape{1, 270, 271, 3}, Shape{2, 270, 271, 2}}) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const CoefficientCase k =
          make_coefficients(shape, true, true, true, dtype, Conduction::kDiffusivity, 43);
      const Values x = random_values(count(shape), dtype, /*seed=*/44);
      const Values grad_y = random_values(count(shape), dtype, /*seed=*/45);
      const Array input(dtype, x);
      const Array grad_input(dtype, grad_y);
      Array grad_x(dtype, count(shape));
      Array grad_k(coefficient_dtype(dtype), static_cast<int64_t>(k.full.size()));
      heat_conduction_backward_cpu(grad_input.data(), input.data(), view_of(k),
                                   Conduction::kDiffusivity, grad_x.data(), grad_k.data(), dtype,
                                   shape, kThreads);
      const HeatGradients expected =
          reference_backward(grad_y, x, k.full, Conduction::kDiffusivity, shape);
      expect_close(grad_x, expected.x, "grad_x " + describe(shape));
      expect_close(grad_k, expected.coefficients, "grad_k " + describe(shape));
    }
  }
}

TEST(HeatConductionBackward, MatchesFiniteDifferences) {
  const Shape shape{2, 5, 6, 3};
  const Values x = random_values(count(shape), DType::kFloat64, /*seed=*/23);
  const Values grad_y = random_values(count(shape), DType::kFloat64, /*seed=*/24);
  const Values k = random_uniform(5 * 6 * 3, 0.1, 1.0, DType::kFloat64, /*seed=*/25);
  const Array grad_input(DType::kFloat64, grad_y);
  const Array input(DType::kFloat64, x);
  const Array held(DType::kFloat64, k);
  Array grad_x(DType::kFloat64, count(shape));
  Array grad_k(DType::kFloat64, 5 * 6 * 3);
  heat_conduction_backward_cpu(grad_input.data(), input.data(), {held.data(), 18, 3, 1},
                               Conduction::kDiffusivity, grad_x.data(), grad_k.data(),
                               DType::kFloat64, shape, kSerial);

  const auto objective = [&](const Values& at_x, const Values& at_k) {
    const Array arg_x(DType::kFloat64, at_x);
    const Array arg_k(DType::kFloat64, at_k);
    Array y(DType::kFloat64, count(shape));
    EXPECT_TRUE(heat_conduction_cpu(arg_x.data(), {arg_k.data(), 18, 3, 1},
                                    Conduction::kDiffusivity, y.data(), DType::kFloat64, shape,
                                    kSerial));
    const Values result = y.values();
    double sum = 0;
    for (size_t i = 0; i < result.size(); ++i) sum += grad_y[i] * result[i];
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < x.size(); i += 13) {
    Values above = x;
    Values below = x;
    above[i] += kStep;
    below[i] -= kStep;
    EXPECT_NEAR(grad_x.values()[i], (objective(above, k) - objective(below, k)) / (2 * kStep),
                1e-7);
  }
  for (size_t i = 0; i < k.size(); i += 7) {
    Values above = k;
    Values below = k;
    above[i] += kStep;
    below[i] -= kStep;
    EXPECT_NEAR(grad_k.values()[i], (objective(x, above) - objective(x, below)) / (2 * kStep),
                1e-7);
  }
}

TEST(HeatConductionBackward, BitsDoNotDependOnThePartitionOrOnWhatIsAskedFor) {
  // The last one exceeds the cache with both gradients, on some instruction sets not with one: then
  // strips and whole planes give the same bits.
  for (const Shape shape : {Shape{4, 14, 11, 35}, Shape{6, 9, 40, 3}, Shape{2, 280, 281, 3}}) {
    for (DType dtype : kAllDTypes) {
      for (Conduction kind : kBothKinds) {
        if (!is_tried(shape, dtype, kind)) continue;
        const CoefficientCase k = make_coefficients(shape, true, true, true, dtype, kind, 26);
        const auto size = static_cast<int64_t>(k.full.size());
        const Array input(dtype, random_values(count(shape), dtype, /*seed=*/27));
        const Array grad_y(dtype, random_values(count(shape), dtype, /*seed=*/28));
        Array expected_x(dtype, count(shape));
        Array expected_k(coefficient_dtype(dtype), size);
        heat_conduction_backward_cpu(grad_y.data(), input.data(), view_of(k), kind,
                                     expected_x.data(), expected_k.data(), dtype, shape, kSerial);
        for (const ParallelFor& parallel : partitions_of(shape)) {
          Array grad_x(dtype, count(shape));
          Array grad_k(coefficient_dtype(dtype), size);
          heat_conduction_backward_cpu(grad_y.data(), input.data(), view_of(k), kind, grad_x.data(),
                                       grad_k.data(), dtype, shape, parallel);
          EXPECT_TRUE(grad_x == expected_x) << describe(dtype) << " " << describe(shape);
          EXPECT_TRUE(grad_k == expected_k) << describe(dtype) << " " << describe(shape);
          Array only_x(dtype, count(shape));
          heat_conduction_backward_cpu(grad_y.data(), nullptr, view_of(k), kind, only_x.data(),
                                       nullptr, dtype, shape, parallel);
          EXPECT_TRUE(only_x == expected_x) << describe(dtype) << " " << describe(shape);
          Array only_k(coefficient_dtype(dtype), size);
          heat_conduction_backward_cpu(grad_y.data(), input.data(), view_of(k), kind, nullptr,
                                       only_k.data(), dtype, shape, parallel);
          EXPECT_TRUE(only_k == expected_k) << describe(dtype) << " " << describe(shape);
        }
      }
    }
  }
}

TEST(HeatConductionBackward, AnEmptyBatchHasAZeroGradient) {
  const Shape shape{0, 3, 4, 5};
  const float k = 1.0f;
  Array grad_k(DType::kFloat32, 3 * 4 * 5);
  heat_conduction_backward_cpu(nullptr, nullptr, {&k, 0, 0, 0}, Conduction::kDiffusivity, nullptr,
                               grad_k.data(), DType::kFloat32, shape, kSerial);
  EXPECT_EQ(grad_k.values(), Values(3 * 4 * 5, 0.0));
}

TEST(HeatConduction, EmptyExtentsWriteNothing) {
  const float k = 1.0f;
  for (const Shape shape :
       {Shape{0, 4, 4, 4}, Shape{2, 0, 4, 4}, Shape{2, 4, 0, 4}, Shape{2, 4, 4, 0}}) {
    EXPECT_TRUE(heat_conduction_cpu(nullptr, {&k, 0, 0, 0}, Conduction::kDiffusivity, nullptr,
                                    DType::kFloat32, shape, kThreads));
    if (shape.batch == 0) continue;
    heat_conduction_backward_cpu(nullptr, nullptr, {&k, 0, 0, 0}, Conduction::kDiffusivity, nullptr,
                                 nullptr, DType::kFloat32, shape, kThreads);
  }
}

}  // namespace
}  // namespace rsvheat::testing
