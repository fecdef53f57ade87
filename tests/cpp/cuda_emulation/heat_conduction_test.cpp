// SPDX-License-Identifier: Apache-2.0
#include "core/heat_conduction.h"

#include <cmath>
#include <limits>

#include "kernels.h"

namespace rsvheat::testing {
namespace {

// A shape, and the shared memory that steers it to one of the paths of transform.h.
struct Case {
  Shape shape;
  int shared_memory = 232448;
};

constexpr int kForPasses = 33 << 10;

[[maybe_unused]] const Case kCases[] = {
    // Register tiles: square and not, one to three channel groups, a partial last group.
    {{2, 8, 8, 5}},
    {{3, 7, 7, 33}},
    {{1, 14, 16, 3}},
    {{1, 5, 12, 70}},
    {{1, 32, 28, 4}},
    {{1, 25, 18, 2}},
    {{1, 56, 64, 3}},
    // Matrix tiles: odd, prime, single rows, columns and points.
    {{2, 5, 9, 3}},
    {{1, 13, 17, 5}},
    {{1, 1, 11, 3}},
    {{2, 11, 1, 2}},
    {{3, 1, 1, 4}},
    {{2, 2, 3, 33}},
    {{1, 16, 32, 2}},
    // Passes: register lines on both axes, on one, on none.
    {{2, 64, 48, 3}, kForPasses},
    {{1, 56, 100, 2}, kForPasses},
    {{1, 60, 61, 3}, kForPasses},
    {{1, 59, 72, 3}, kForPasses},
    {{1, 67, 71, 2}, kForPasses},
    {{1, 200, 256, 1}, kForPasses},
    // cuFFT.
    {{1, 257, 3, 5}},
    {{2, 4, 258, 3}},
    {{1, 1, 300, 2}},
    {{2, 263, 1, 2}},
    // Square tiles with accesses of 16 bytes: one to three channel groups, partial ones.
    {{2, 7, 7, 40}},
    {{1, 8, 8, 32}},
    {{2, 14, 14, 8}},
    {{1, 16, 16, 72}},
    {{1, 28, 28, 24}},
    {{1, 32, 32, 16}},
    {{1, 56, 56, 8}},
    {{1, 64, 64, 8}},
    // Passes with such accesses, in chunks of channels and not.
    {{3, 48, 56, 16}, kForPasses},
    {{1, 64, 96, 24}, kForPasses},
    {{2, 72, 48, 12}, kForPasses},
};
[[maybe_unused]] constexpr size_t kSquares = 24, kWidePasses = 32;

void expect_forward(const Case& c, DType dtype) {
  const SharedMemoryLimit limit(c.shared_memory);
  const Shape shape = c.shape;
  const int64_t points = shape.height * shape.width * shape.channels;
  const Values x = random_values(count(shape), dtype, /*seed=*/1);
  const Values k = random_uniform(points, 0.0, 3.0, coefficient_dtype(dtype), /*seed=*/2);
  const Array coefficients(coefficient_dtype(dtype), k);
  const Coefficients view{coefficients.data(), shape.width * shape.channels, shape.channels, 1};
  const Array y = heat_conduction(Array(dtype, x), view, Conduction::kDiffusivity, shape);
  expect_close(y, reference_apply_filter(x, reference_filter(k, shape), shape), describe(shape));
}

struct Gradients {
  Array x, coefficients;
};

Gradients backward(const Array& grad_y, const Array& x, Coefficients coefficients, Conduction kind,
                   Shape shape, bool need_x, bool need_coefficients, int64_t offset = 0) {
  const DType dtype = x.dtype();
  Gradients result{Array(dtype, need_x ? count(shape) : 0, offset),
                   Array(coefficient_dtype(dtype),
                         need_coefficients ? shape.height * shape.width * shape.channels : 0)};
  call(
      [&](size_t* bytes) {
        const bool vectors =
            heat_conduction_vectors(grad_y.data(), need_coefficients ? x.data() : nullptr,
                                    coefficients, need_x ? result.x.data() : nullptr);
        return heat_conduction_backward_cuda_workspace(shape, dtype, need_coefficients, vectors,
                                                       nullptr, bytes);
      },
      [&](void* workspace) {
        return heat_conduction_backward_cuda(
            grad_y.data(), need_coefficients ? x.data() : nullptr, coefficients, kind,
            need_x ? result.x.data() : nullptr,
            need_coefficients ? result.coefficients.data() : nullptr, dtype, shape, workspace,
            nullptr);
      });
  return result;
}

void expect_gradients(const Case& c, DType dtype, Conduction kind) {
  const SharedMemoryLimit limit(c.shared_memory);
  Shape shape = c.shape;
  shape.batch += 2;  // several steps of the batch, the last one smaller
  const DType parameter = coefficient_dtype(dtype);
  const Values grad_y = random_values(count(shape), dtype, /*seed=*/7);
  const Values x = random_values(count(shape), dtype, /*seed=*/8);
  const Values k =
      random_uniform(shape.height * shape.width * shape.channels, 0.0, 2.0, parameter, /*seed=*/9);
  const Array coefficients(parameter, k);
  const Coefficients view{coefficients.data(), shape.width * shape.channels, shape.channels, 1};
  const Array g(dtype, grad_y), input(dtype, x);
  const HeatGradients expected = reference_backward(grad_y, x, k, kind, shape);
  const Gradients both = backward(g, input, view, kind, shape, true, true);
  expect_close(both.x, expected.x, "grad_x " + describe(shape));
  expect_close(both.coefficients, expected.coefficients, "grad_k " + describe(shape));
  // What is not asked for changes nothing else.
  const Gradients only_x = backward(g, input, view, kind, shape, true, false);
  expect_close(only_x.x, expected.x, "grad_x alone " + describe(shape));
  const Gradients only_k = backward(g, input, view, kind, shape, false, true);
  EXPECT_TRUE(only_k.coefficients == both.coefficients);
}

#if defined(RSVHEAT_EMULATION_FULL_SIZE)

TEST(CudaHeatConduction, MatchesItsDefinitionWithTheGpusNumbersOfThreads) {
  for (const Case& c : {Case{{2, 7, 7, 40}}, Case{{1, 28, 28, 24}}, Case{{1, 64, 64, 8}},
                        Case{{1, 14, 16, 40}}, Case{{1, 56, 96, 32}, kForPasses}}) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      expect_forward(c, dtype);
      if (count(c.shape) < 30000) expect_gradients(c, dtype, Conduction::kDiffusivity);
    }
  }
}

#else

TEST(CudaHeatConduction, MatchesItsDefinitionOnEveryPath) {
  for (const Case& c : kCases) {
    // Every dtype on the smaller ones.
    for (DType dtype : kAllDTypes)
      if (count(c.shape) <= 4000 || dtype == DType::kFloat32 || dtype == DType::kBFloat16)
        expect_forward(c, dtype);
  }
}

TEST(CudaHeatConduction, TakesPreparedFilters) {
  for (const Case& c :
       {kCases[0], kCases[8], kCases[16], kCases[20], kCases[kSquares], kCases[kWidePasses]}) {
    const SharedMemoryLimit limit(c.shared_memory);
    const Shape shape = c.shape;
    const Values x = random_values(count(shape), DType::kFloat32, /*seed=*/3);
    const Values filter =
        random_values(shape.height * shape.width * shape.channels, DType::kFloat32, /*seed=*/4);
    const Array coefficients(DType::kFloat32, filter);
    const Coefficients view{coefficients.data(), shape.width * shape.channels, shape.channels, 1};
    const Array y = heat_conduction(Array(DType::kFloat32, x), view, Conduction::kFilter, shape);
    expect_close(y, reference_apply_filter(x, filter, shape), describe(shape));
  }
}

TEST(CudaHeatConduction, BroadcastsDiffusivity) {
  for (const Case& c :
       {kCases[0], kCases[8], kCases[16], kCases[20], kCases[kSquares], kCases[kWidePasses]}) {
    const SharedMemoryLimit limit(c.shared_memory);
    const Shape shape = c.shape;
    const Values x = random_values(count(shape), DType::kFloat32, /*seed=*/5);
    const Values k = random_uniform(shape.height * shape.width * shape.channels, 0.0, 3.0,
                                    DType::kFloat32, /*seed=*/6);
    const Array coefficients(DType::kFloat32, k);
    const int64_t strides[][3] = {{0, 0, 0}, {0, 0, 1}, {1, 0, 0}, {0, 1, 0}, {shape.width, 1, 0}};
    for (const auto& s : strides) {
      Values full(k.size());
      for (int64_t h = 0, i = 0; h < shape.height; ++h)
        for (int64_t w = 0; w < shape.width; ++w)
          for (int64_t channel = 0; channel < shape.channels; ++channel, ++i)
            full[i] = k[h * s[0] + w * s[1] + channel * s[2]];
      const Array y =
          heat_conduction(Array(DType::kFloat32, x), {coefficients.data(), s[0], s[1], s[2]},
                          Conduction::kDiffusivity, shape);
      expect_close(y, reference_apply_filter(x, reference_filter(full, shape), shape),
                   describe(shape));
    }
  }
}

TEST(CudaHeatConduction, InfiniteDiffusivityIsTheLimitAndNanSpreads) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const Case& c :
       {kCases[0], kCases[8], kCases[16], kCases[20], kCases[kSquares], kCases[kWidePasses]}) {
    const SharedMemoryLimit limit(c.shared_memory);
    const Shape shape = c.shape;
    const int64_t points = shape.height * shape.width * shape.channels;
    for (DType dtype : {DType::kFloat32, DType::kFloat64}) {
      const Values x = random_values(count(shape), dtype, /*seed=*/12);
      // At omega = 0 in the first channel, elsewhere in the second.
      Values k = random_uniform(points, 0.0, 3.0, coefficient_dtype(dtype), /*seed=*/13);
      Values large = k;
      for (int64_t at : {int64_t{0}, points - shape.channels + 1}) {
        k[at] = kInfinity;
        large[at] = 1e300;
      }
      const auto conduct = [&](const Values& k) {
        const Array held(coefficient_dtype(dtype), k);
        const Coefficients view{held.data(), shape.width * shape.channels, shape.channels, 1};
        return heat_conduction(Array(dtype, x), view, Conduction::kDiffusivity, shape);
      };
      expect_close(conduct(k), reference_apply_filter(x, reference_filter(large, shape), shape),
                   describe(shape));
      k[0] = std::numeric_limits<double>::quiet_NaN();
      const Values spread = conduct(k).values();
      for (int64_t i = 0; i < count(shape); ++i) {
        EXPECT_EQ(std::isnan(spread[i]), i % shape.channels == 0) << describe(shape) << ": " << i;
      }
    }
  }
}

TEST(CudaHeatConductionBackward, MatchesItsDefinitionOnEveryPath) {
  for (const Case& c :
       {kCases[0], kCases[1], kCases[4], kCases[7], kCases[11], kCases[12], kCases[14], kCases[16],
        kCases[20], kCases[23], kCases[kSquares], kCases[kSquares + 1], kCases[kSquares + 2],
        kCases[kSquares + 3], kCases[kSquares + 4], kCases[kSquares + 5], kCases[kSquares + 6],
        kCases[kSquares + 7], kCases[kWidePasses]}) {
    for (DType dtype : kAllDTypes) {
      if (count(c.shape) > 4000 && dtype != DType::kFloat32) continue;
      expect_gradients(c, dtype, Conduction::kDiffusivity);
      if (dtype == DType::kFloat32) expect_gradients(c, dtype, Conduction::kFilter);
    }
  }
}

// No access is wider than an operand's address allows, of any operand.
TEST(CudaHeatConduction, TakesOperandsAtAnyAddress) {
  for (const Case& c : {kCases[kSquares], Case{{1, 48, 56, 8}, kForPasses}}) {
    const SharedMemoryLimit limit(c.shared_memory);
    const Shape shape = c.shape;
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const Values values = random_values(count(shape), dtype, /*seed=*/14);
      const Values k = random_uniform(shape.height * shape.width * shape.channels, 0.0, 2.0,
                                      DType::kFloat32, /*seed=*/15);
      const Values filtered = reference_apply_filter(values, reference_filter(k, shape), shape);
      const HeatGradients expected =
          reference_backward(values, values, k, Conduction::kDiffusivity, shape);
      for (int misplaced = 0; misplaced < 4; ++misplaced) {
        const auto offset = [&](int operand) { return operand == misplaced ? 1 : 0; };
        const Array x(dtype, values, offset(0)), grad(dtype, values, offset(3));
        const Array coefficients(DType::kFloat32, k, offset(1));
        const Coefficients view{coefficients.data(), shape.width * shape.channels, shape.channels,
                                1};
        Array y(dtype, count(shape), offset(2));
        call(
            [&](size_t* bytes) {
              return heat_conduction_cuda_workspace(shape, dtype, nullptr, bytes);
            },
            [&](void* workspace) {
              return heat_conduction_cuda(x.data(), view, Conduction::kDiffusivity, y.data(), dtype,
                                          shape, workspace, nullptr);
            });
        const std::string what = describe(shape) + ", operand " + std::to_string(misplaced);
        expect_close(y, filtered, what);
        const Gradients both =
            backward(grad, x, view, Conduction::kDiffusivity, shape, true, true, offset(2));
        expect_close(both.x, expected.x, "grad_x " + what);
        expect_close(both.coefficients, expected.coefficients, "grad_k " + what);
      }
    }
  }
}

TEST(CudaHeatConductionBackward, OfAnEmptyBatchIsZero) {
  const Shape shape{0, 4, 5, 3};
  const Array nothing(DType::kFloat32, 0), k(DType::kFloat32, Values(60, 1.0));
  const Gradients gradients =
      backward(nothing, nothing, {k.data(), 15, 3, 1}, Conduction::kDiffusivity, shape, true, true);
  EXPECT_EQ(gradients.coefficients.values(), Values(60, 0.0));
}

TEST(CudaHeatConduction, IsDeterministic) {
  for (const Shape shape : {Shape{5, 8, 8, 5}, Shape{5, 8, 8, 8}}) {
    const int64_t row = shape.width * shape.channels;
    const Array x(DType::kFloat32, random_values(count(shape), DType::kFloat32, /*seed=*/10));
    const Array k(DType::kFloat32,
                  random_uniform(shape.height * row, 0.0, 2.0, DType::kFloat32, /*seed=*/11));
    const Coefficients view{k.data(), row, shape.channels, 1};
    const Gradients first = backward(x, x, view, Conduction::kDiffusivity, shape, true, true);
    const Gradients second = backward(x, x, view, Conduction::kDiffusivity, shape, true, true);
    EXPECT_TRUE(first.x == second.x);
    EXPECT_TRUE(first.coefficients == second.coefficients);
  }
}

#endif

}  // namespace
}  // namespace rsvheat::testing
