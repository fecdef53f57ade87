// SPDX-License-Identifier: Apache-2.0
#include "core/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "support.h"

namespace rsvheat::testing {
namespace {

Values rounded(const Values& values) { return Array(DType::kBFloat16, values).values(); }

Values reference(const Values& x, const Values& weight, const Values& bias, bool gelu, int64_t rows,
                 int64_t inputs, int64_t outputs) {
  Values y(rows * outputs);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < outputs; ++column) {
      double sum = bias.empty() ? 0.0 : bias[column];
      for (int64_t k = 0; k < inputs; ++k) sum += x[row * inputs + k] * weight[column * inputs + k];
      y[row * outputs + column] = gelu ? 0.5 * sum * std::erfc(-sum / std::sqrt(2.0)) : sum;
    }
  }
  return y;
}

class LoweredLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!lowered_linear_available()) GTEST_SKIP() << "the CPU has no products of bfloat16";
  }
};

// Rows of each group's size and of several groups, one and several blocks of inputs and outputs.
TEST_F(LoweredLinear, IsTheProductOfTheRoundedWeight) {
  for (int64_t rows = 1; rows <= 26; ++rows) {
    const int64_t inputs = 32 * (1 + rows % 3), outputs = 32 * (1 + rows % 4);
    const Values x = random_values(rows * inputs, DType::kBFloat16, 1);
    const Values weight = random_values(outputs * inputs, DType::kFloat32, 2);
    const Values bias = random_values(outputs, DType::kFloat32, 3);
    // Addresses aligned to an element and no more, blocks of exactly their size.
    const Array x_array(DType::kBFloat16, x, 1), weight_array(DType::kFloat32, weight, 1),
        bias_array(DType::kFloat32, bias, 1);
    for (const bool gelu : {false, true}) {
      for (const bool with_bias : {false, true}) {
        Array y(DType::kBFloat16, rows * outputs, 1);
        const auto run = [&](Array& out, const ParallelFor& parallel) {
          lowered_linear_cpu(x_array.data(), static_cast<const float*>(weight_array.data()),
                             with_bias ? static_cast<const float*>(bias_array.data()) : nullptr,
                             gelu, out.data(), rows, inputs, outputs, parallel);
        };
        run(y, kSerial);
        expect_close(
            y,
            reference(x, rounded(weight), with_bias ? bias : Values{}, gelu, rows, inputs, outputs),
            std::to_string(rows) + " rows");
        for (const auto& parallel : partitions()) {
          Array other(DType::kBFloat16, rows * outputs, 1);
          run(other, parallel);
          EXPECT_TRUE(other == y);
        }
      }
    }
  }
}

// Enough of each that all threads have work, with fewer blocks of outputs than threads.
TEST_F(LoweredLinear, RowsAreSharedOutAmongThreads) {
  for (const auto& [rows, inputs, outputs] :
       {std::tuple{300, 512, 32}, std::tuple{90, 256, 96}, std::tuple{31, 2048, 64}}) {
    const Values x = random_values(rows * inputs, DType::kBFloat16, 1);
    const Values weight = random_values(outputs * inputs, DType::kFloat32, 2);
    const Array x_array(DType::kBFloat16, x), weight_array(DType::kFloat32, weight);
    const Values expected = reference(x, rounded(weight), {}, false, rows, inputs, outputs);
    for (const auto& parallel : partitions()) {
      Array y(DType::kBFloat16, rows * outputs);
      lowered_linear_cpu(x_array.data(), static_cast<const float*>(weight_array.data()), nullptr,
                         false, y.data(), rows, inputs, outputs, parallel);
      expect_close(y, expected, std::to_string(rows) + " rows");
    }
  }
}

TEST_F(LoweredLinear, NoRowsAreNoWork) {
  const float weight[32 * 32] = {};
  lowered_linear_cpu(nullptr, weight, nullptr, false, nullptr, 0, 32, 32, kSerial);
}

}  // namespace
}  // namespace rsvheat::testing
