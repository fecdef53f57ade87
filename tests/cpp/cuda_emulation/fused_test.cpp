// SPDX-License-Identifier: Apache-2.0
// The fused steps of a block, against the CPU kernels in float64. Built a second time with the
// GPU's numbers of threads, for a few operands.
#include "core/cuda/layer_norm.h"
#include "core/cuda/spatial_correction.h"
#include "core/layer_norm.h"
#include "core/spatial_correction.h"
#include "kernels.h"

namespace rsvheat::testing {
namespace {

constexpr double kEps = 1e-5;
constexpr DType kDouble = DType::kFloat64;

struct NormProblem {
  NormStep step;
  int64_t rows, channels;
  Values x, other, weight, bias, grad;

  NormProblem(NormStep step, int64_t rows, int64_t channels, DType dtype, DType other_dtype)
      : step(step),
        rows(rows),
        channels(channels),
        x(random_values(rows * channels, dtype, 70)),
        other(random_values(rows * channels, other_dtype, 71)),
        weight(random_values(channels, coefficient_dtype(dtype), 72)),
        bias(random_values(channels, coefficient_dtype(dtype), 73)),
        grad(random_values(rows * channels, other_dtype, 74)) {}
};

// Rows of `values` in an array whose rows are `stride` elements apart; NaNs are between them.
Array spread(DType dtype, const Values& values, int64_t channels, int64_t stride, int64_t offset) {
  const auto rows = int64_t(values.size()) / channels;
  Values all(rows * stride, NAN);
  for (int64_t i = 0; i < int64_t(values.size()); ++i)
    all[i / channels * stride + i % channels] = values[i];
  return Array(dtype, all, offset);
}

// Operands begin `offset` elements from an aligned address.
void expect_norm(const NormProblem& p, DType dtype, DType other_dtype, int64_t stride,
                 int64_t offset = 0) {
  const bool gate = p.step == NormStep::kGate;
  const DType parameter = coefficient_dtype(dtype);
  const int64_t size = p.rows * p.channels;
  const std::string what = std::string(gate ? "gate " : "add ") + describe(dtype) + " " +
                           std::to_string(p.rows) + "x" + std::to_string(p.channels);
  const Array x = spread(dtype, p.x, p.channels, stride, offset);
  const Array other = spread(other_dtype, p.other, p.channels, stride, offset);
  const Array weight(parameter, p.weight, offset), bias(parameter, p.bias, offset);
  const Array grad(other_dtype, p.grad, offset);
  Array y(other_dtype, size, offset), grad_x(dtype, size, offset);
  Array grad_other(dtype, gate ? size : 0, offset);
  Array grad_weight(parameter, p.channels), grad_bias(parameter, p.channels);
  const NormParameters norm{weight.data(), bias.data(), kEps};
  const NormRows rows{p.rows, p.channels, stride, stride};
  expect_ok(layer_norm_cuda(p.step, x.data(), dtype, other.data(), other_dtype, norm, y.data(),
                            rows, nullptr));
  if (!gate) {  // in place of the other operand
    Array added = spread(other_dtype, p.other, p.channels, p.channels, offset);
    expect_ok(layer_norm_cuda(p.step, x.data(), dtype, added.data(), other_dtype, norm,
                              added.data(), {p.rows, p.channels, stride, p.channels}, nullptr));
    EXPECT_TRUE(added == y) << what;
  }
  Workspace workspace(layer_norm_backward_cuda_workspace(dtype, p.rows, p.channels));
  expect_ok(layer_norm_backward_cuda(p.step, grad.data(), x.data(), dtype, other.data(),
                                     other_dtype, norm, grad_x.data(),
                                     gate ? grad_other.data() : nullptr, grad_weight.data(),
                                     grad_bias.data(), rows, workspace.data(), nullptr));

  const Array wide_x(kDouble, p.x), wide_other(kDouble, p.other), wide_grad(kDouble, p.grad);
  const Array wide_weight(kDouble, p.weight), wide_bias(kDouble, p.bias);
  Array e_y(kDouble, size), e_x(kDouble, size), e_other(kDouble, gate ? size : 0);
  Array e_weight(kDouble, p.channels), e_bias(kDouble, p.channels);
  const NormParameters wide{wide_weight.data(), wide_bias.data(), kEps};
  layer_norm_cpu(p.step, wide_x.data(), wide_other.data(), wide, e_y.data(), kDouble, p.rows,
                 p.channels, kSerial);
  layer_norm_backward_cpu(p.step, wide_grad.data(), wide_x.data(), wide_other.data(), wide,
                          e_x.data(), gate ? e_other.data() : nullptr, e_weight.data(),
                          e_bias.data(), kDouble, p.rows, p.channels, kSerial);
  expect_close(y, e_y.values(), "y " + what);
  // One value's gradient is zero: what is left of its parts.
  if (p.channels > 1) expect_close(grad_x, e_x.values(), "grad_x " + what);
  if (gate) expect_close(grad_other, e_other.values(), "grad_other " + what);
  if (p.channels > 1) expect_close(grad_weight, e_weight.values(), "grad_weight " + what);
  expect_close(grad_bias, e_bias.values(), "grad_bias " + what);
}

#if defined(RSVHEAT_EMULATION_FULL_SIZE)
constexpr int64_t kChannels[] = {24, 130};
constexpr int64_t kRows[] = {70};
constexpr DType kTypes[] = {DType::kBFloat16};
constexpr Shape kShapes[] = {{2, 5, 4, 24}};
#else
// One, two, four and eight vectors a lane, whole and with a rest; rows that are no whole vectors,
// too long to be held; with gradients and without.
constexpr int64_t kChannels[] = {1, 3, 8, 40, 96, 130, 512, 520, 1032};
constexpr int64_t kRows[] = {1, 7};
constexpr const auto& kTypes = kAllDTypes;
// Pixels and lines, an odd column, more rows than a strip, images in steps of one.
constexpr Shape kShapes[] = {{1, 1, 1, 1},  {2, 1, 5, 3},  {2, 7, 1, 8},
                             {3, 4, 5, 24}, {1, 19, 2, 8}, {2, 3, 3, 264}};
#endif

TEST(CudaLayerNorm, MatchesTheCpu) {
  for (const NormStep step : {NormStep::kGate, NormStep::kAdd}) {
    for (const DType dtype : kTypes) {
      for (const int64_t channels : kChannels) {
        for (const int64_t rows : kRows)
          expect_norm(NormProblem(step, rows, channels, dtype, dtype), dtype, dtype, channels);
      }
    }
  }
}

TEST(CudaLayerNorm, TakesHalvesOfWiderRows) {
  for (const NormStep step : {NormStep::kGate, NormStep::kAdd}) {
    for (const DType dtype : kTypes) {
      for (const int64_t channels : {24, 9})
        expect_norm(NormProblem(step, 5, channels, dtype, dtype), dtype, dtype, 2 * channels);
    }
  }
}

TEST(CudaLayerNorm, AddsToAWiderResidual) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t channels : {40, 130}) {
      const NormProblem problem(NormStep::kAdd, 6, channels, dtype, DType::kFloat32);
      expect_norm(problem, dtype, DType::kFloat32, channels);
    }
  }
}

TEST(CudaLayerNorm, TakesAddressesThatAreAlignedToAnElementAndNoMore) {
  for (const DType dtype : kTypes) {
    const NormProblem problem(NormStep::kGate, 5, 40, dtype, dtype);
    expect_norm(problem, dtype, dtype, 40, /*offset=*/1);
  }
}

TEST(CudaLayerNorm, NoRowsHaveZeroGradients) {
  Array weight(DType::kFloat32, 5), bias(DType::kFloat32, 5);
  expect_ok(layer_norm_cuda(NormStep::kAdd, nullptr, DType::kFloat32, nullptr, DType::kFloat32, {},
                            nullptr, {0, 5, 5, 5}, nullptr));
  expect_ok(layer_norm_backward_cuda(NormStep::kAdd, nullptr, nullptr, DType::kFloat32, nullptr,
                                     DType::kFloat32, {}, nullptr, nullptr, weight.data(),
                                     bias.data(), {0, 5, 5, 5}, nullptr, nullptr));
  EXPECT_EQ(weight.values(), Values(5, 0.0));
  EXPECT_EQ(bias.values(), Values(5, 0.0));
}

struct Correction {
  Array y, x, embed, norm_weight, norm_bias, conv_weight, conv_bias;

  Correction(Shape s, DType dtype, int64_t offset = 0)
      : y(dtype, count(s), offset),
        x(dtype, count(s), offset),
        embed(coefficient_dtype(dtype), s.height * s.width * s.channels, offset),
        norm_weight(coefficient_dtype(dtype), s.channels),
        norm_bias(coefficient_dtype(dtype), s.channels),
        conv_weight(coefficient_dtype(dtype), 9 * s.channels),
        conv_bias(coefficient_dtype(dtype), s.channels) {}

  CorrectionGradients gradients() {
    return {x.data(),         embed.data(),       norm_weight.data(),
            norm_bias.data(), conv_weight.data(), conv_bias.data()};
  }
};

void expect_correction(Shape s, DType dtype, int64_t offset = 0) {
  const DType parameter = coefficient_dtype(dtype);
  const int64_t plane = s.height * s.width * s.channels;
  const Values x = random_values(count(s), dtype, 80), grad = random_values(count(s), dtype, 81);
  const Values embed = random_values(plane, parameter, 82);
  const Values norm_weight = random_values(s.channels, parameter, 83);
  const Values norm_bias = random_values(s.channels, parameter, 84);
  const Values conv_weight = random_values(9 * s.channels, parameter, 85);
  const Values conv_bias = random_values(s.channels, parameter, 86);
  const auto run = [&](DType type, DType parameters, int64_t from, const auto& body) {
    const Array held[] = {Array(type, x, from),
                          Array(type, grad, from),
                          Array(parameters, embed, from),
                          Array(parameters, norm_weight, from),
                          Array(parameters, norm_bias, from),
                          Array(parameters, conv_weight, from),
                          Array(parameters, conv_bias, from)};
    body(held[0].data(), held[1].data(),
         CorrectionParameters{held[2].data(),
                              {held[3].data(), held[4].data(), kEps},
                              held[5].data(),
                              held[6].data()});
  };
  Correction found(s, dtype, offset), expected(s, kDouble);
  run(dtype, parameter, offset,
      [&](const void* x, const void* grad, CorrectionParameters parameters) {
        Workspace forward(spatial_correction_conv_cuda_workspace(dtype, s));
        expect_ok(spatial_correction_conv_cuda(x, parameters, found.y.data(), dtype, s,
                                               forward.data(), nullptr));
        Workspace backward(spatial_correction_conv_backward_cuda_workspace(dtype, s));
        expect_ok(spatial_correction_conv_backward_cuda(grad, x, parameters, found.gradients(),
                                                        dtype, s, backward.data(), nullptr));
      });
  run(kDouble, kDouble, 0, [&](const void* x, const void* grad, CorrectionParameters parameters) {
    spatial_correction_conv_cpu(x, parameters, expected.y.data(), kDouble, s, kSerial);
    spatial_correction_conv_backward_cpu(grad, x, parameters, expected.gradients(), kDouble, s,
                                         kSerial);
  });
  const std::string what = describe(dtype) + " " + describe(s);
  expect_close(found.y, expected.y.values(), "y " + what);
  if (s.channels > 1) {  // the norm of one channel is constant
    expect_close(found.x, expected.x.values(), "grad_x " + what);
    expect_close(found.embed, expected.embed.values(), "grad_embed " + what);
    expect_close(found.norm_weight, expected.norm_weight.values(), "grad_norm_weight " + what);
  }
  expect_close(found.norm_bias, expected.norm_bias.values(), "grad_norm_bias " + what);
  expect_close(found.conv_weight, expected.conv_weight.values(), "grad_conv_weight " + what);
  expect_close(found.conv_bias, expected.conv_bias.values(), "grad_conv_bias " + what);
}

TEST(CudaSpatialCorrection, MatchesTheCpu) {
  for (const DType dtype : kTypes) {
    for (const Shape shape : kShapes) expect_correction(shape, dtype);
  }
}

TEST(CudaSpatialCorrection, TakesAddressesThatAreAlignedToAnElementAndNoMore) {
  for (const DType dtype : kTypes) expect_correction({2, 3, 3, 8}, dtype, /*offset=*/1);
}

TEST(CudaSpatialCorrection, NoImagesHaveZeroGradients) {
  Correction found({0, 2, 3, 4}, DType::kFloat32);
  expect_ok(spatial_correction_conv_backward_cuda(nullptr, nullptr, {}, found.gradients(),
                                                  DType::kFloat32, {0, 2, 3, 4}, nullptr, nullptr));
  EXPECT_EQ(found.embed.values(), Values(24, 0.0));
  EXPECT_EQ(found.conv_weight.values(), Values(36, 0.0));
}

}  // namespace
}  // namespace rsvheat::testing
