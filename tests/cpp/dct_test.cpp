// SPDX-License-Identifier: Apache-2.0
#include "core/dct.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/cpu/dispatch.h"
#include "core/cpu/plan_cache.h"
#include "support.h"

namespace rsvheat::testing {
namespace {

void expect_matches_definition(Shape shape, Layout layout, DType dtype) {
  const Values x = random_values(count(shape), dtype, /*seed=*/1);
  const Array input(dtype, x);
  for (bool inverse : {false, true}) {
    Array y(dtype, count(shape));
    dct2d_cpu(input.data(), y.data(), dtype, shape, layout, inverse, kSerial);
    expect_close(y, reference_dct2d(x, shape, layout, inverse),
                 describe(shape) + (layout == Layout::kNhwc ? " nhwc" : " nchw") +
                     (inverse ? " inverse" : " forward"));
  }
}

TEST(Dct, MatchesItsDefinitionForEveryLengthUpTo64) {
  for (int64_t n = 1; n <= 64; ++n) {
    for (Layout layout : kBothLayouts) {
      expect_matches_definition({1, n, 65 - n, 5}, layout, DType::kFloat32);
      expect_matches_definition({1, n, n, 1}, layout, DType::kFloat64);
    }
  }
}

TEST(Dct, MatchesItsDefinitionInSixteenBits) {
  for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (int64_t n : {1, 2, 3, 7, 8, 14, 31, 32, 33, 48, 56, 61, 64}) {
      for (Layout layout : kBothLayouts) expect_matches_definition({1, n, 20, 3}, layout, dtype);
    }
  }
}

TEST(Dct, MatchesItsDefinitionForLongAxes) {
  for (int64_t n :
       {65, 96, 97, 100, 112, 127, 128, 200, 224, 225, 255, 256, 384, 448, 500, 511, 512}) {
    for (Layout layout : kBothLayouts) {
      expect_matches_definition({1, n, 3, 2}, layout, DType::kFloat32);
      expect_matches_definition({1, 3, n, 2}, layout, DType::kFloat32);
      expect_matches_definition({1, n, 2, 1}, layout, DType::kFloat64);
    }
  }
}

TEST(Dct, MatchesItsDefinitionAtTheLargestLength) {
  expect_matches_definition({1, kMaxTransformSize, 1, 1}, Layout::kNhwc, DType::kFloat32);
  expect_matches_definition({1, 1, kMaxTransformSize, 1}, Layout::kNchw, DType::kFloat32);
  expect_matches_definition({1, 4093, 1, 1}, Layout::kNhwc, DType::kFloat32);  // prime
}

TEST(Dct, MatchesItsDefinitionForEveryRemainderOfChannels) {
  for (int64_t channels = 1; channels <= 33; ++channels) {
    for (DType dtype : kAllDTypes) {
      for (Layout layout : kBothLayouts)
        expect_matches_definition({2, 5, 6, channels}, layout, dtype);
    }
  }
  expect_matches_definition({1, 6, 5, 150}, Layout::kNhwc, DType::kFloat32);
}

TEST(Dct, InverseUndoesForward) {
  const Shape shape{2, 28, 45, 19};
  for (Layout layout : kBothLayouts) {
    const Values x = random_values(count(shape), DType::kFloat64, /*seed=*/2);
    const Array input(DType::kFloat64, x);
    Array spectrum(DType::kFloat64, count(shape));
    Array back(DType::kFloat64, count(shape));
    dct2d_cpu(input.data(), spectrum.data(), DType::kFloat64, shape, layout, false, kSerial);
    dct2d_cpu(spectrum.data(), back.data(), DType::kFloat64, shape, layout, true, kSerial);
    expect_close(back, x, "round trip");
  }
}

TEST(Dct, InPlaceGivesTheSameBits) {
  for (DType dtype : kAllDTypes) {
    for (Layout layout : kBothLayouts) {
      for (const Shape shape : {Shape{2, 12, 7, 20}, Shape{1, 40, 64, 3}}) {
        const Array input(dtype, random_values(count(shape), dtype, /*seed=*/3));
        Array apart(dtype, count(shape));
        dct2d_cpu(input.data(), apart.data(), dtype, shape, layout, false, kSerial);
        Array in_place = input;
        dct2d_cpu(in_place.data(), in_place.data(), dtype, shape, layout, false, kSerial);
        EXPECT_TRUE(in_place == apart) << describe(dtype) << " " << describe(shape);
      }
    }
  }
}

TEST(Dct, BitsDoNotDependOnThePartition) {
  for (DType dtype : kAllDTypes) {
    for (Layout layout : kBothLayouts) {
      for (const Shape shape : {Shape{3, 14, 20, 35}, Shape{1, 70, 66, 80}, Shape{5, 9, 9, 1}}) {
        const Array input(dtype, random_values(count(shape), dtype, /*seed=*/4));
        Array expected(dtype, count(shape));
        dct2d_cpu(input.data(), expected.data(), dtype, shape, layout, false, kSerial);
        for (const ParallelFor& parallel : partitions()) {
          Array y(dtype, count(shape));
          dct2d_cpu(input.data(), y.data(), dtype, shape, layout, false, parallel);
          EXPECT_TRUE(y == expected) << describe(dtype) << " " << describe(shape) << " in "
                                     << parallel.num_threads << " ranges";
        }
      }
    }
  }
}

TEST(Dct, EmptyExtentsWriteNothing) {
  for (const Shape shape : {Shape{0, 4, 4, 4}, Shape{2, 0, 4, 4}, Shape{2, 4, 0, 4},
                            Shape{2, 4, 4, 0}, Shape{0, 0, 0, 0}}) {
    for (Layout layout : kBothLayouts) {
      for (const ParallelFor& parallel : partitions()) {
        dct2d_cpu(nullptr, nullptr, DType::kFloat32, shape, layout, false, parallel);
      }
    }
  }
}

TEST(Dct, ConcurrentCallsShareThePlanCache) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (int64_t n = 33; n < 80; n += 1 + i) {
        const Shape shape{1, n, 100 - n, 1};
        const Array input(DType::kFloat32, random_values(count(shape), DType::kFloat32, 5));
        Array spectrum(DType::kFloat32, count(shape));
        Array back(DType::kFloat32, count(shape));
        dct2d_cpu(input.data(), spectrum.data(), DType::kFloat32, shape, Layout::kNhwc, false,
                  kSerial);
        if (n % 5 == 0) clear_cpu_plan_cache();
        dct2d_cpu(spectrum.data(), back.data(), DType::kFloat32, shape, Layout::kNhwc, true,
                  kSerial);
        expect_close(back, input.values(), describe(shape));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace rsvheat::testing
