// SPDX-License-Identifier: Apache-2.0
#include "core/spatial_correction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "support.h"

namespace rsvheat::testing {
namespace {

constexpr double kEps = 1e-5;
// Pixels and lines; part of a register and several; fewer rows than blocks and many blocks of rows.
constexpr Shape kShapes[] = {{1, 1, 1, 1},  {2, 1, 1, 5},  {1, 1, 9, 16},  {2, 7, 1, 17},
                             {1, 2, 2, 3},  {3, 5, 7, 15}, {1, 3, 4, 33},  {2, 6, 5, 67},
                             {1, 41, 3, 8}, {2, 70, 2, 1}, {1, 8, 13, 128}};

struct Problem {
  Shape shape;
  Values x, embed, norm_weight, norm_bias, conv_weight, conv_bias, grad_y;

  Problem(Shape shape, DType dtype, uint32_t seed)
      : shape(shape),
        x(random_values(count(shape), dtype, seed)),
        embed(random_values(shape.height * shape.width * shape.channels, coefficient_dtype(dtype),
                            seed + 1)),
        norm_weight(random_values(shape.channels, coefficient_dtype(dtype), seed + 2)),
        norm_bias(random_values(shape.channels, coefficient_dtype(dtype), seed + 3)),
        conv_weight(random_values(9 * shape.channels, coefficient_dtype(dtype), seed + 4)),
        conv_bias(random_values(shape.channels, coefficient_dtype(dtype), seed + 5)),
        grad_y(random_values(count(shape), dtype, seed + 6)) {}
};

// By the definition, and the gradients by hand. *_terms are what was summed up to each of them.
struct Expected {
  Values y, x, embed, norm_weight, norm_bias, conv_weight, conv_bias;
  Values x_terms, norm_weight_terms, norm_bias_terms, conv_weight_terms;
};

// Calls visit(at the pixel, at its neighbour, tap) for all neighbours within the image.
template <class Visit>
void for_neighbours(Shape s, const Visit& visit) {
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.height; ++h) {
      for (int64_t w = 0; w < s.width; ++w) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const int64_t i = h + tap / 3 - 1;
          const int64_t j = w + tap % 3 - 1;
          if (i < 0 || i >= s.height || j < 0 || j >= s.width) continue;
          for (int64_t c = 0; c < s.channels; ++c) {
            visit(((b * s.height + h) * s.width + w) * s.channels + c,
                  ((b * s.height + i) * s.width + j) * s.channels + c, tap);
          }
        }
      }
    }
  }
}

Expected expected_of(const Problem& p) {
  const int64_t channels = p.shape.channels;
  const int64_t size = count(p.shape);
  const auto plane = static_cast<int64_t>(p.embed.size());
  Values unit(size);
  Values normed(size);
  Values deviation(size);
  for (int64_t row = 0; row < size; row += channels) {
    double mean = 0;
    double variance = 0;
    for (int64_t at = row; at < row + channels; ++at) {
      unit[at] = std::max(p.x[at] + p.embed[at % plane], 0.0);
      mean += unit[at] / static_cast<double>(channels);
    }
    for (int64_t at = row; at < row + channels; ++at) {
      unit[at] -= mean;
      variance += unit[at] * unit[at] / static_cast<double>(channels);
    }
    for (int64_t at = row; at < row + channels; ++at) {
      deviation[at] = std::sqrt(variance + kEps);
      unit[at] /= deviation[at];
      normed[at] = unit[at] * p.norm_weight[at - row] + p.norm_bias[at - row];
    }
  }
  Expected e;
  e.y.resize(size);
  e.x.resize(size);
  e.embed.resize(plane);
  e.norm_weight.resize(channels);
  e.norm_bias.resize(channels);
  e.conv_weight.resize(9 * channels);
  e.conv_bias.resize(channels);
  Values grad(size);
  for (int64_t at = 0; at < size; ++at) {
    e.y[at] = p.conv_bias[at % channels];
    e.conv_bias[at % channels] += p.grad_y[at];
  }
  for_neighbours(p.shape, [&](int64_t at, int64_t near, int64_t tap) {
    const int64_t weight = at % channels * 9 + tap;
    e.y[at] += normed[near] * p.conv_weight[weight];
    grad[near] += p.grad_y[at] * p.conv_weight[weight];
    e.conv_weight[weight] += p.grad_y[at] * normed[near];
    e.conv_weight_terms.push_back(p.grad_y[at] * normed[near]);
  });
  for (int64_t row = 0; row < size; row += channels) {
    double mean = 0;
    double slope = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = row + c;
      e.norm_weight[c] += grad[at] * unit[at];
      e.norm_bias[c] += grad[at];
      e.norm_weight_terms.push_back(grad[at] * unit[at]);
      e.norm_bias_terms.push_back(grad[at]);
      mean += grad[at] * p.norm_weight[c] / static_cast<double>(channels);
      slope += grad[at] * p.norm_weight[c] * unit[at] / static_cast<double>(channels);
    }
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = row + c;
      const double inner = grad[at] * p.norm_weight[c];
      e.x_terms.push_back(inner / deviation[at]);
      if (p.x[at] + p.embed[at % plane] > 0) {
        e.x[at] = (inner - mean - unit[at] * slope) / deviation[at];
        e.embed[at % plane] += e.x[at];
      }
    }
  }
  return e;
}

// What the kernels make of a problem. Each array starts `offset` elements from an aligned address.
struct Outputs {
  Array y, x, embed, norm_weight, norm_bias, conv_weight, conv_bias;

  Outputs(const Problem& p, DType dtype, const ParallelFor& parallel, int64_t offset = 0)
      : y(dtype, count(p.shape), offset),
        x(dtype, count(p.shape), offset),
        embed(coefficient_dtype(dtype), static_cast<int64_t>(p.embed.size()), offset),
        norm_weight(coefficient_dtype(dtype), p.shape.channels, offset),
        norm_bias(coefficient_dtype(dtype), p.shape.channels, offset),
        conv_weight(coefficient_dtype(dtype), 9 * p.shape.channels, offset),
        conv_bias(coefficient_dtype(dtype), p.shape.channels, offset) {
    const DType own_dtype = coefficient_dtype(dtype);
    const Array held_x(dtype, p.x, offset);
    const Array held_embed(own_dtype, p.embed, offset);
    const Array held_norm_weight(own_dtype, p.norm_weight, offset);
    const Array held_norm_bias(own_dtype, p.norm_bias, offset);
    const Array held_conv_weight(own_dtype, p.conv_weight, offset);
    const Array held_conv_bias(own_dtype, p.conv_bias, offset);
    const Array held_grad(dtype, p.grad_y, offset);
    const CorrectionParameters parameters{held_embed.data(),
                                          {held_norm_weight.data(), held_norm_bias.data(), kEps},
                                          held_conv_weight.data(),
                                          held_conv_bias.data()};
    spatial_correction_conv_cpu(held_x.data(), parameters, y.data(), dtype, p.shape, parallel);
    const CorrectionGradients gradients{x.data(),         embed.data(),       norm_weight.data(),
                                        norm_bias.data(), conv_weight.data(), conv_bias.data()};
    spatial_correction_conv_backward_cpu(held_grad.data(), held_x.data(), parameters, gradients,
                                         dtype, p.shape, parallel);
  }

  bool operator==(const Outputs&) const = default;
};

void expect_outputs(const Outputs& actual, const Problem& p) {
  const Expected e = expected_of(p);
  const std::string what = describe(p.shape);
  expect_close(actual.y, e.y, "y " + what);
  expect_close_part(actual.x, e.x, e.x_terms, "grad_x " + what);
  expect_close_part(actual.embed, e.embed, e.x_terms, "grad_embed " + what);
  expect_close_part(actual.norm_weight, e.norm_weight, e.norm_weight_terms, "norm_weight " + what);
  expect_close_part(actual.norm_bias, e.norm_bias, e.norm_bias_terms, "norm_bias " + what);
  expect_close_part(actual.conv_weight, e.conv_weight, e.conv_weight_terms, "conv_weight " + what);
  expect_close_part(actual.conv_bias, e.conv_bias, p.grad_y, "conv_bias " + what);
}

TEST(SpatialCorrection, MatchesItsDefinition) {
  for (const Shape shape : kShapes) {
    for (DType dtype : kAllDTypes) {
      const Problem problem(shape, dtype, /*seed=*/70);
      expect_outputs(Outputs(problem, dtype, kSerial), problem);
    }
  }
}

TEST(SpatialCorrection, MatchesItsDefinitionForEveryHeightUpTo40) {
  for (int64_t height = 1; height <= 40; ++height) {
    const Problem problem({1, height, 1 + height % 5, 6}, DType::kFloat32, /*seed=*/71);
    expect_outputs(Outputs(problem, DType::kFloat32, kSerial), problem);
  }
}

TEST(SpatialCorrection, TakesAddressesThatAreAlignedToAnElementAndNoMore) {
  for (DType dtype : kAllDTypes) {
    for (int64_t offset : {1, 2, 3}) {
      const Problem problem({2, 5, 6, 35}, dtype, /*seed=*/72);
      expect_outputs(Outputs(problem, dtype, kSerial, offset), problem);
    }
  }
}

TEST(SpatialCorrection, BitsDoNotDependOnThePartition) {
  // Elements enough for all threads. Ranges that begin within an image; fewer rows than threads.
  for (const Shape shape : {Shape{3, 37, 30, 37}, Shape{1, 2, 700, 80}, Shape{40, 1, 3, 1001}}) {
    for (DType dtype : kAllDTypes) {
      const Problem problem(shape, dtype, /*seed=*/73);
      const Outputs expected(problem, dtype, kSerial);
      for (const ParallelFor& parallel : partitions()) {
        EXPECT_TRUE(Outputs(problem, dtype, parallel) == expected)
            << describe(dtype) << " " << describe(shape) << " in " << parallel.num_threads;
      }
    }
  }
}

TEST(SpatialCorrection, ManyThreadsMatchTheDefinition) {
  const Problem problem({2, 33, 31, 40}, DType::kFloat32, /*seed=*/74);
  expect_outputs(Outputs(problem, DType::kFloat32, kThreads), problem);
}

TEST(SpatialCorrection, CallsOfSeveralThreadsAtOnceKeepApart) {
  const Problem problem({2, 9, 8, 33}, DType::kFloat32, /*seed=*/75);
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

TEST(SpatialCorrectionBackward, MatchesFiniteDifferences) {
  Problem problem({2, 3, 4, 5}, DType::kFloat64, /*seed=*/76);
  for (size_t i = 0; i < problem.x.size(); ++i) {  // away from the kink of relu
    const double sum = problem.x[i] + problem.embed[i % problem.embed.size()];
    problem.x[i] += std::copysign(0.1, sum);
  }
  const Outputs outputs(problem, DType::kFloat64, kSerial);
  const auto objective = [](const Problem& p) {
    const Values y = Outputs(p, DType::kFloat64, kSerial).y.values();
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += p.grad_y[i] * y[i];
    return sum;
  };
  constexpr double kStep = 1e-5;
  const auto expect_slopes = [&](Values Problem::* operand, const Array& grad) {
    const Values values = grad.values();
    for (size_t i = 0; i < values.size(); i += 3) {
      Problem above = problem;
      Problem below = problem;
      (above.*operand)[i] += kStep;
      (below.*operand)[i] -= kStep;
      const double slope = (objective(above) - objective(below)) / (2 * kStep);
      EXPECT_NEAR(values[i], slope, 1e-6 * (1 + std::fabs(slope)));
    }
  };
  expect_slopes(&Problem::x, outputs.x);
  expect_slopes(&Problem::embed, outputs.embed);
  expect_slopes(&Problem::norm_weight, outputs.norm_weight);
  expect_slopes(&Problem::norm_bias, outputs.norm_bias);
  expect_slopes(&Problem::conv_weight, outputs.conv_weight);
  expect_slopes(&Problem::conv_bias, outputs.conv_bias);
}

TEST(SpatialCorrection, EmptyExtentsWriteNothingAndHaveZeroGradients) {
  for (const Shape shape :
       {Shape{0, 4, 3, 5}, Shape{2, 0, 3, 5}, Shape{2, 4, 0, 5}, Shape{2, 4, 3, 0}}) {
    for (DType dtype : kAllDTypes) {
      spatial_correction_conv_cpu(nullptr, {}, nullptr, dtype, shape, kThreads);
      const DType own_dtype = coefficient_dtype(dtype);
      const int64_t plane = shape.height * shape.width * shape.channels;
      Array embed(own_dtype, plane);
      Array norm_weight(own_dtype, shape.channels);
      Array norm_bias(own_dtype, shape.channels);
      Array conv_weight(own_dtype, 9 * shape.channels);
      Array conv_bias(own_dtype, shape.channels);
      spatial_correction_conv_backward_cpu(nullptr, nullptr, {},
                                           {nullptr, embed.data(), norm_weight.data(),
                                            norm_bias.data(), conv_weight.data(), conv_bias.data()},
                                           dtype, shape, kThreads);
      EXPECT_EQ(embed.values(), Values(plane, 0.0));
      EXPECT_EQ(norm_weight.values(), Values(shape.channels, 0.0));
      EXPECT_EQ(norm_bias.values(), Values(shape.channels, 0.0));
      EXPECT_EQ(conv_weight.values(), Values(9 * shape.channels, 0.0));
      EXPECT_EQ(conv_bias.values(), Values(shape.channels, 0.0));
    }
  }
}

}  // namespace
}  // namespace rsvheat::testing
