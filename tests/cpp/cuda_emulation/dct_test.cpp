// SPDX-License-Identifier: Apache-2.0
#include "core/dct.h"

#include "core/cuda/codelets.h"
#include "kernels.h"

namespace rsvheat::testing {
namespace {

// Unnormalized sum_n v[n] cos(pi (2n + a) (2k + b) / (4N)): dct2 (1, 0), dct3 (0, 1), dct4 (1, 1).
Values cosine_transform(const Values& v, int a, int b) {
  const int64_t size = int64_t(v.size());
  Values result(v.size());
  for (int64_t k = 0; k < size; ++k)
    for (int64_t n = 0; n < size; ++n)
      result[k] += v[n] * cuda::cos_half_pi((2 * n + a) * (2 * k + b), 2 * size);
  return result;
}

template <int N>
void check_codelet() {
  const Values v = random_values(N, DType::kFloat32, /*seed=*/N);
  const auto error = [&](void (*codelet)(float*), int a, int b) {
    float data[N];
    for (int i = 0; i < N; ++i) data[i] = float(v[i]);
    codelet(data);
    return relative_l2_error(Values(data, data + N), cosine_transform(v, a, b));
  };
  constexpr double kTolerance = 4e-7;
  EXPECT_LT(error(cuda::dct2<N>, 1, 0), kTolerance) << N;
  EXPECT_LT(error(cuda::dct3<N>, 0, 1), kTolerance) << N;
  EXPECT_LT(error(cuda::dct4<N>, 1, 1), kTolerance) << N;
}

template <int... Sizes>
void check_codelets(std::integer_sequence<int, Sizes...>) {
  (check_codelet<Sizes + 1>(), ...);
}

TEST(CudaCodelets, MatchTheirDefinitions) {
  check_codelets(std::make_integer_sequence<int, 32>());
  check_codelet<48>();
  check_codelet<50>();
  check_codelet<56>();
  check_codelet<60>();
  check_codelet<64>();
  check_codelet<96>();
  check_codelet<100>();
  check_codelet<112>();
  check_codelet<128>();
}

TEST(CudaCodelets, CosinesAreExactToADouble) {
  for (int n : {1, 2, 7, 12, 64, 100})
    for (int j = 0; j < 9 * n; ++j)
      EXPECT_NEAR(cuda::cos_half_pi(j, n), std::cos(1.57079632679489661923 * j / n), 4e-15);
}

constexpr int kForPasses = 33 << 10;

TEST(CudaDct, MatchesItsDefinition) {
  struct Case {
    Shape shape;
    Layout layout;
    int shared_memory = 232448;
  };
  const Layout nhwc = Layout::kNhwc, nchw = Layout::kNchw;
  for (const Case& c :
       {Case{{2, 8, 10, 3}, nhwc}, Case{{1, 9, 6, 5}, nhwc}, Case{{1, 1, 7, 2}, nhwc},
        Case{{1, 48, 60, 3}, nhwc, kForPasses}, Case{{1, 61, 67, 3}, nhwc, kForPasses},
        Case{{1, 64, 48, 16}, nhwc, kForPasses}, Case{{1, 6, 259, 40}, nhwc},
        Case{{1, 260, 1, 3}, nhwc}, Case{{2, 16, 16, 3}, nchw}, Case{{1, 31, 20, 5}, nchw},
        Case{{3, 13, 17, 1}, nchw}, Case{{2, 1, 40, 2}, nchw}, Case{{2, 40, 1, 2}, nchw},
        Case{{2, 1, 1, 3}, nchw}, Case{{1, 2, 2, 1}, nchw}, Case{{1, 64, 96, 2}, nchw}}) {
    const SharedMemoryLimit limit(c.shared_memory);
    for (DType dtype : kAllDTypes) {
      if (count(c.shape) > 4000 && dtype != DType::kFloat32 && dtype != DType::kFloat64) continue;
      const Values x = random_values(count(c.shape), dtype, /*seed=*/20);
      for (bool inverse : {false, true}) {
        const Array y = dct2d(Array(dtype, x), c.shape, c.layout, inverse);
        expect_close(y, reference_dct2d(x, c.shape, c.layout, inverse),
                     describe(c.shape) + (inverse ? " inverse" : ""));
      }
    }
  }
}

TEST(CudaDct, LeavesEmptyTensorsAlone) {
  for (Layout layout : kBothLayouts)
    for (const Shape shape : {Shape{0, 4, 4, 3}, Shape{2, 0, 4, 3}, Shape{2, 4, 4, 0}})
      dct2d(Array(DType::kFloat32, 0), shape, layout, false);
}

}  // namespace
}  // namespace rsvheat::testing
