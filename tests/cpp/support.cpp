// SPDX-License-Identifier: Apache-2.0
#include "support.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <numbers>
#include <thread>

namespace rsvheat::testing {
namespace {

constexpr double kPi = std::numbers::pi;

size_t element_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kFloat64:
      return 8;
    default:
      return 2;
  }
}

// Explicit and fraction bits of the significand, and the exponent of the smallest normal number.
struct Format {
  int precision;
  int min_exponent;
};

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return {24, -126};
    case DType::kBFloat16:
      return {8, -126};
    case DType::kFloat16:
      return {11, -14};
    default:
      return {53, -1022};
  }
}

// To nearest, ties to even, subnormals kept; overflow does not occur in the tests.
double round_to(double value, DType dtype) {
  if (dtype == DType::kFloat64 || value == 0 || !std::isfinite(value)) return value;
  const Format format = format_of(dtype);
  const int exponent = std::max(std::ilogb(value), format.min_exponent);
  const double ulp = std::ldexp(1.0, exponent - format.precision + 1);
  return std::nearbyint(value / ulp) * ulp;
}

uint16_t to_float16_bits(double value) {
  const double rounded = round_to(value, DType::kFloat16);
  const uint16_t sign = std::signbit(rounded) ? 0x8000 : 0;
  const double magnitude = std::fabs(rounded);
  if (std::isnan(magnitude)) return sign | 0x7e00;
  if (magnitude >= 65536) return sign | 0x7c00;
  // Below 2^-14 the fraction counts units of 2^-24; above, the exponent field counts from there.
  if (magnitude < 0x1p-14) return sign | static_cast<uint16_t>(magnitude * 0x1p24);
  const int exponent = std::ilogb(magnitude);
  const auto fraction = static_cast<uint16_t>((std::ldexp(magnitude, -exponent) - 1) * 1024);
  return static_cast<uint16_t>(sign | ((exponent + 15) << 10) | fraction);
}

double from_float16_bits(uint16_t bits) {
  const double sign = bits & 0x8000 ? -1 : 1;
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 0x3ff;
  if (exponent == 31) return fraction ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

template <class T>
void write(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// The orthonormal DCT-II matrix of length n, row-major, one row per frequency.
const Values& dct_matrix(int64_t n) {
  static std::map<int64_t, Values> cache;
  Values& matrix = cache[n];
  if (matrix.empty()) {
    matrix.resize(n * n);
    for (int64_t k = 0; k < n; ++k) {
      const double scale = std::sqrt((k == 0 ? 1.0 : 2.0) / static_cast<double>(n));
      for (int64_t i = 0; i < n; ++i) {
        const int64_t phase = (2 * i + 1) * k % (4 * n);  // reduced: the argument stays exact
        matrix[k * n + i] = scale * std::cos(kPi * static_cast<double>(phase) / (2.0 * n));
      }
    }
  }
  return matrix;
}

// Transforms the axis of length n and stride `stride` of a dense array.
Values transform_axis(const Values& x, int64_t n, int64_t stride, bool inverse) {
  const Values& matrix = dct_matrix(n);
  Values y(x.size(), 0.0);
  const int64_t outer = n * stride == 0 ? 0 : static_cast<int64_t>(x.size()) / (n * stride);
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t k = 0; k < n; ++k) {
      double* to = &y[(o * n + k) * stride];
      for (int64_t i = 0; i < n; ++i) {
        const double c = inverse ? matrix[i * n + k] : matrix[k * n + i];
        const double* from = &x[(o * n + i) * stride];
        for (int64_t s = 0; s < stride; ++s) to[s] += c * from[s];
      }
    }
  }
  return y;
}

void run_on_threads(int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
  constexpr int64_t kCount = 4;
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < kCount; ++i) {
    const int64_t begin = count * i / kCount;
    const int64_t end = count * (i + 1) / kCount;
    if (begin < end) threads.emplace_back([=] { body(context, begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

const ParallelFor kThreads{&run_on_threads, 4};

std::vector<ParallelFor> partitions() {
  return {kSerial, kCutIn<1>, kCutIn<2>, kCutIn<3>, kCutIn<7>, kThreads};
}

DType coefficient_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

Array::Array(DType dtype, int64_t count, int64_t offset)
    : dtype_(dtype),
      offset_bytes_(offset * element_size(dtype)),
      bytes_(offset_bytes_ + count * element_size(dtype), std::byte{0xff}) {}

Array::Array(DType dtype, const Values& values, int64_t offset)
    : Array(dtype, static_cast<int64_t>(values.size()), offset) {
  std::byte* to = bytes_.data() + offset_bytes_;
  for (double value : values) {
    switch (dtype) {
      case DType::kFloat32:
        write(to, static_cast<float>(value));
        break;
      case DType::kFloat64:
        write(to, value);
        break;
      case DType::kBFloat16:
        write(to, static_cast<uint16_t>(
                      std::bit_cast<uint32_t>(static_cast<float>(round_to(value, dtype))) >> 16));
        break;
      case DType::kFloat16:
        write(to, to_float16_bits(value));
        break;
    }
    to += element_size(dtype);
  }
}

Values Array::values() const {
  Values values;
  for (size_t at = offset_bytes_; at < bytes_.size(); at += element_size(dtype_)) {
    const std::byte* from = &bytes_[at];
    switch (dtype_) {
      case DType::kFloat32:
        values.push_back(read<float>(from));
        break;
      case DType::kFloat64:
        values.push_back(read<double>(from));
        break;
      case DType::kBFloat16:
        values.push_back(std::bit_cast<float>(static_cast<uint32_t>(read<uint16_t>(from)) << 16));
        break;
      case DType::kFloat16:
        values.push_back(from_float16_bits(read<uint16_t>(from)));
        break;
    }
  }
  return values;
}

bool Array::operator==(const Array& other) const {
  return dtype_ == other.dtype_ && bytes_ == other.bytes_;
}

int64_t count(Shape shape) { return shape.batch * shape.height * shape.width * shape.channels; }

std::string describe(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    default:
      return "float16";
  }
}

std::string describe(Shape shape) {
  return "B" + std::to_string(shape.batch) + " H" + std::to_string(shape.height) + " W" +
         std::to_string(shape.width) + " C" + std::to_string(shape.channels);
}

Values random_values(int64_t count, DType dtype, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Values values(count);
  for (double& value : values) value = round_to(normal(engine), dtype);
  return values;
}

Values random_uniform(int64_t count, double low, double high, DType dtype, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  Values values(count);
  for (double& value : values) value = round_to(uniform(engine), dtype);
  return values;
}

double l2_norm(const Values& values) {
  double sum = 0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum);
}

double relative_l2_error(const Values& actual, const Values& expected) {
  Values error(expected.size());
  for (size_t i = 0; i < error.size(); ++i) error[i] = actual.at(i) - expected[i];
  return l2_norm(error) / l2_norm(expected);
}

double tolerance(const Values& expected, DType dtype) {
  if (dtype == DType::kFloat64) return 1e-14 * l2_norm(expected);
  // With 16 bits too, for results of so few elements that rounding them may cost nothing.
  const double arithmetic = 2e-6 * l2_norm(expected);
  if (dtype == DType::kFloat32) return arithmetic;
  Values rounding = expected;
  for (double& value : rounding) value -= round_to(value, dtype);
  return 1.5 * l2_norm(rounding) + arithmetic;
}

void expect_close(const Array& actual, const Values& expected, const std::string& what) {
  expect_close_part(actual, expected, {}, what);
}

void expect_close_part(const Array& actual, const Values& expected, const Values& source,
                       const std::string& what) {
  Values error = actual.values();
  ASSERT_EQ(error.size(), expected.size()) << what;
  for (size_t i = 0; i < error.size(); ++i) error[i] -= expected[i];
  const double allowed =
      tolerance(expected, actual.dtype()) + tolerance(source, coefficient_dtype(actual.dtype()));
  // Not EXPECT_LE: NaN must fail.
  EXPECT_TRUE(l2_norm(error) <= allowed)
      << what << ", " << describe(actual.dtype()) << ": L2 error " << l2_norm(error) << " of "
      << l2_norm(expected) << ", allowed " << allowed;
}

Values reference_dct2d(const Values& x, Shape shape, Layout layout, bool inverse) {
  const int64_t inner = layout == Layout::kNhwc ? shape.channels : 1;
  return transform_axis(transform_axis(x, shape.width, inner, inverse), shape.height,
                        shape.width * inner, inverse);
}

Values omega_squared(Shape shape) {
  Values result;
  for (int64_t h = 0; h < shape.height; ++h) {
    for (int64_t w = 0; w < shape.width; ++w) {
      result.push_back(std::pow(kPi * h / shape.height, 2) + std::pow(kPi * w / shape.width, 2));
    }
  }
  return result;
}

Values reference_filter(const Values& k, Shape shape) {
  const Values omega = omega_squared(shape);
  Values filter(k.size());
  for (size_t i = 0; i < k.size(); ++i) filter[i] = std::exp(-k[i] * omega[i / shape.channels]);
  return filter;
}

Values reference_apply_filter(const Values& x, const Values& filter, Shape shape) {
  Values spectrum = reference_dct2d(x, shape, Layout::kNhwc, /*inverse=*/false);
  for (size_t i = 0; i < spectrum.size(); ++i) spectrum[i] *= filter[i % filter.size()];
  return reference_dct2d(spectrum, shape, Layout::kNhwc, /*inverse=*/true);
}

HeatGradients reference_backward(const Values& grad_y, const Values& x, const Values& coefficients,
                                 Conduction kind, Shape shape) {
  const bool is_k = kind == Conduction::kDiffusivity;
  const Values filter = is_k ? reference_filter(coefficients, shape) : coefficients;
  const Values omega = omega_squared(shape);
  const Values dct_x = reference_dct2d(x, shape, Layout::kNhwc, /*inverse=*/false);
  const Values dct_grad = reference_dct2d(grad_y, shape, Layout::kNhwc, /*inverse=*/false);
  Values grad(filter.size(), 0.0);
  for (size_t i = 0; i < dct_x.size(); ++i) grad[i % grad.size()] += dct_x[i] * dct_grad[i];
  if (is_k) {
    for (size_t i = 0; i < grad.size(); ++i) grad[i] *= -omega[i / shape.channels] * filter[i];
  }
  return {reference_apply_filter(grad_y, filter, shape), grad};
}

Bands reference_frequency_split(const Values& x, const Values& radius, const Values& angles,
                                Shape shape) {
  const double diagonal = std::hypot(shape.height, shape.width);
  Bands bands{reference_dct2d(x, shape, Layout::kNchw, /*inverse=*/false), {}};
  for (size_t i = 0; i < bands.low.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int64_t m = at % shape.width;
    const int64_t n = at / shape.width % shape.height;
    const int64_t b = at / (shape.width * shape.height * shape.channels);
    const double angle = std::atan2(n, m) * 180 / kPi;
    const bool inside = std::hypot(n, m) <= radius[b] * diagonal && angles[2 * b] <= angle &&
                        angle <= angles[2 * b + 1];
    if (!inside && (n != 0 || m != 0)) bands.low[i] = 0;
  }
  bands.low = reference_dct2d(bands.low, shape, Layout::kNchw, /*inverse=*/true);
  for (size_t i = 0; i < x.size(); ++i) bands.high.push_back(x[i] - bands.low[i]);
  return bands;
}

}  // namespace rsvheat::testing
