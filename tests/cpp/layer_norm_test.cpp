// SPDX-License-Identifier: Apache-2.0
#include "core/layer_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "support.h"

namespace rsvheat::testing {
namespace {

constexpr double kEps = 1e-5;
constexpr NormStep kBothSteps[] = {NormStep::kGate, NormStep::kAdd};
// Less than a register of any instruction set, whole ones, and four of them with rests. Not 2: rows
// of two nearly equal values lose digits in float32.
constexpr int64_t kChannels[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 67, 130, 200};
// Parts of a group of rows, as many as there are blocks, more.
constexpr int64_t kRows[] = {1, 3, 4, 6, 64, 131};

struct Problem {
  NormStep step;
  int64_t rows, channels;
  Values x, other, weight, bias, grad_y;

  Problem(NormStep step, int64_t rows, int64_t channels, DType dtype, uint32_t seed)
      : step(step),
        rows(rows),
        channels(channels),
        x(random_values(rows * channels, dtype, seed)),
        other(random_values(rows * channels, dtype, seed + 1)),
        weight(random_values(channels, coefficient_dtype(dtype), seed + 2)),
        bias(random_values(channels, coefficient_dtype(dtype), seed + 3)),
        grad_y(random_values(rows * channels, dtype, seed + 4)) {}

  std::string what() const {
    return std::string(step == NormStep::kGate ? "gate" : "add") + ", " + std::to_string(rows) +
           " rows of " + std::to_string(channels);
  }
};

// By the definition, and the gradients by hand. *_terms are what was summed up to each of them.
struct Expected {
  Values y, x, other, weight, bias;
  Values x_terms, weight_terms, bias_terms;
};

Expected expected_of(const Problem& p) {
  Expected e;
  e.weight.resize(p.channels);
  e.bias.resize(p.channels);
  for (int64_t row = 0; row < p.rows; ++row) {
    const double* x = &p.x[row * p.channels];
    const auto channels = static_cast<double>(p.channels);
    double mean = 0;
    double variance = 0;
    for (int64_t c = 0; c < p.channels; ++c) mean += x[c] / channels;
    for (int64_t c = 0; c < p.channels; ++c) variance += std::pow(x[c] - mean, 2) / channels;
    const double deviation = std::sqrt(variance + kEps);
    double mean_grad = 0;
    double slope = 0;
    Values unit;
    Values inner;
    for (int64_t c = 0; c < p.channels; ++c) {
      const double other = p.other[row * p.channels + c];
      const double grad = p.grad_y[row * p.channels + c];
      unit.push_back((x[c] - mean) / deviation);
      const double normed = unit[c] * p.weight[c] + p.bias[c];
      double grad_normed = grad;
      if (p.step == NormStep::kGate) {
        const double open = 1 / (1 + std::exp(-other));
        e.y.push_back(normed * other * open);
        e.other.push_back(grad * normed * open * (1 + other * (1 - open)));
        grad_normed = grad * other * open;
      } else {
        e.y.push_back(other + normed);
      }
      e.weight[c] += grad_normed * unit[c];
      e.bias[c] += grad_normed;
      e.weight_terms.push_back(grad_normed * unit[c]);
      e.bias_terms.push_back(grad_normed);
      inner.push_back(grad_normed * p.weight[c]);
      mean_grad += inner[c] / channels;
      slope += inner[c] * unit[c] / channels;
    }
    for (int64_t c = 0; c < p.channels; ++c) {
      e.x.push_back((inner[c] - mean_grad - unit[c] * slope) / deviation);
      e.x_terms.push_back(inner[c] / deviation);
    }
  }
  return e;
}

// What the kernels make of a problem. Each array starts `offset` elements from an aligned address.
struct Outputs {
  Array y, x, other, weight, bias;

  Outputs(const Problem& p, DType dtype, const ParallelFor& parallel, int64_t offset = 0)
      : y(dtype, p.rows * p.channels, offset),
        x(dtype, p.rows * p.channels, offset),
        other(dtype, p.step == NormStep::kGate ? p.rows * p.channels : 0, offset),
        weight(coefficient_dtype(dtype), p.channels, offset),
        bias(coefficient_dtype(dtype), p.channels, offset) {
    const DType own_dtype = coefficient_dtype(dtype);
    const Array held_x(dtype, p.x, offset);
    const Array held_other(dtype, p.other, offset);
    const Array held_weight(own_dtype, p.weight, offset);
    const Array held_bias(own_dtype, p.bias, offset);
    const Array held_grad(dtype, p.grad_y, offset);
    const NormParameters norm{held_weight.data(), held_bias.data(), kEps};
    layer_norm_cpu(p.step, held_x.data(), held_other.data(), norm, y.data(), dtype, p.rows,
                   p.channels, parallel);
    const bool gate = p.step == NormStep::kGate;
    layer_norm_backward_cpu(p.step, held_grad.data(), held_x.data(),
                            gate ? held_other.data() : held_x.data(), norm, x.data(),
                            gate ? other.data() : nullptr, weight.data(), bias.data(), dtype,
                            p.rows, p.channels, parallel);
  }

  bool operator==(const Outputs&) const = default;
};

void expect_outputs(const Outputs& actual, const Problem& p) {
  const Expected expected = expected_of(p);
  const std::string what = p.what();
  expect_close(actual.y, expected.y, "y " + what);
  expect_close_part(actual.x, expected.x, expected.x_terms, "grad_x " + what);
  if (p.step == NormStep::kGate) expect_close(actual.other, expected.other, "grad_other " + what);
  expect_close_part(actual.weight, expected.weight, expected.weight_terms, "grad_weight " + what);
  expect_close_part(actual.bias, expected.bias, expected.bias_terms, "grad_bias " + what);
}

TEST(LayerNorm, MatchesItsDefinitionForEveryNumberOfChannelsAndRows) {
  for (NormStep step : kBothSteps) {
    for (DType dtype : kAllDTypes) {
      for (int64_t channels : kChannels) {
        for (int64_t rows : kRows) {
          const Problem problem(step, rows, channels, dtype, /*seed=*/60);
          expect_outputs(Outputs(problem, dtype, kSerial), problem);
        }
      }
    }
  }
}

TEST(LayerNorm, TakesAddressesThatAreAlignedToAnElementAndNoMore) {
  for (NormStep step : kBothSteps) {
    for (DType dtype : kAllDTypes) {
      for (int64_t offset : {1, 2, 3}) {
        const Problem problem(step, 9, 45, dtype, /*seed=*/61);
        expect_outputs(Outputs(problem, dtype, kSerial, offset), problem);
      }
    }
  }
}

TEST(LayerNorm, BitsDoNotDependOnThePartition) {
  // Elements enough for all threads; fewer rows than threads.
  for (const auto& [rows, channels] : {std::pair{3000, 37}, std::pair{2, 50000}}) {
    for (NormStep step : kBothSteps) {
      for (DType dtype : kAllDTypes) {
        const Problem problem(step, rows, channels, dtype, /*seed=*/62);
        const Outputs expected(problem, dtype, kSerial);
        for (const ParallelFor& parallel : partitions()) {
          EXPECT_TRUE(Outputs(problem, dtype, parallel) == expected)
              << describe(dtype) << " " << problem.what() << " in " << parallel.num_threads;
        }
      }
    }
  }
}

TEST(LayerNorm, CallsOfSeveralThreadsAtOnceKeepApart) {
  const Problem problem(NormStep::kGate, 70, 33, DType::kFloat32, /*seed=*/63);
  const Outputs expected(problem, DType::kFloat32, kSerial);
  std::vector<std::thread> threads;
  std::vector<int> same(4, 0);
  for (int& result : same) {
    threads.emplace_back([&] {
      result = 1;
      for (int i = 0; i < 20; ++i) {
        if (!(Outputs(problem, DType::kFloat32, kSerial) == expected)) result = 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, std::vector<int>(4, 1));
}

TEST(LayerNorm, LargeMeansCostNoMoreThanRoundingThem) {
  for (double offset : {1e2, 1e4}) {
    Problem problem(NormStep::kAdd, 20, 133, DType::kFloat32, /*seed=*/64);
    for (double& value : problem.x) value = static_cast<float>(value + offset);
    const Values y = Outputs(problem, DType::kFloat32, kSerial).y.values();
    EXPECT_LT(relative_l2_error(y, expected_of(problem).y), 1e-6 + offset * 0x1p-23);
  }
}

TEST(LayerNorm, EqualChannelsAreTheBias) {
  const Values ones(3 * 21, 2.5);
  for (DType dtype : kAllDTypes) {
    Problem problem(NormStep::kAdd, 3, 21, dtype, /*seed=*/65);
    problem.x = ones;
    problem.other = Values(3 * 21, 0.0);
    expect_outputs(Outputs(problem, dtype, kSerial), problem);
  }
}

TEST(LayerNormBackward, MatchesFiniteDifferences) {
  for (NormStep step : kBothSteps) {
    const Problem problem(step, 3, 5, DType::kFloat64, /*seed=*/66);
    const Outputs outputs(problem, DType::kFloat64, kSerial);
    const auto objective = [](const Problem& p) {
      const Values y = Outputs(p, DType::kFloat64, kSerial).y.values();
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += p.grad_y[i] * y[i];
      return sum;
    };
    constexpr double kStep = 1e-5;
    const auto expect_slopes = [&](Values Problem::* operand, const Array& grad) {
      for (size_t i = 0; i < grad.values().size(); ++i) {
        Problem above = problem;
        Problem below = problem;
        (above.*operand)[i] += kStep;
        (below.*operand)[i] -= kStep;
        EXPECT_NEAR(grad.values()[i], (objective(above) - objective(below)) / (2 * kStep), 1e-7);
      }
    };
    expect_slopes(&Problem::x, outputs.x);
    expect_slopes(&Problem::weight, outputs.weight);
    expect_slopes(&Problem::bias, outputs.bias);
    if (step == NormStep::kGate) expect_slopes(&Problem::other, outputs.other);
  }
}

TEST(LayerNorm, NoRowsWriteNothingAndHaveZeroGradients) {
  for (NormStep step : kBothSteps) {
    layer_norm_cpu(step, nullptr, nullptr, {}, nullptr, DType::kFloat32, 0, 5, kThreads);
    layer_norm_cpu(step, nullptr, nullptr, {}, nullptr, DType::kFloat32, 5, 0, kThreads);
    for (DType dtype : kAllDTypes) {
      Array weight(coefficient_dtype(dtype), 5);
      Array bias(coefficient_dtype(dtype), 5);
      layer_norm_backward_cpu(step, nullptr, nullptr, nullptr, {}, nullptr, nullptr, weight.data(),
                              bias.data(), dtype, 0, 5, kThreads);
      EXPECT_EQ(weight.values(), Values(5, 0.0));
      EXPECT_EQ(bias.values(), Values(5, 0.0));
    }
  }
}

}  // namespace
}  // namespace rsvheat::testing
