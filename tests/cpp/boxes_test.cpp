// SPDX-License-Identifier: Apache-2.0
#include "core/boxes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "boxes_support.h"

namespace rsvheat::testing {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double iou_of(const Values& a, const Values& b, DType dtype = DType::kFloat64) {
  return box_iou(Array(dtype, a), Array(dtype, b), true, kSerial).values()[0];
}

TEST(BoxIou, MatchesClippedPolygons) {
  for (DType dtype : kBoxDTypes) {
    const int64_t n = 60, m = 45;
    const Values a = hard_boxes(n, dtype, /*seed=*/1), b = hard_boxes(m, dtype, /*seed=*/1);
    const Values iou = box_iou(Array(dtype, a), Array(dtype, b), false, kSerial).values();
    const double allowed = dtype == DType::kFloat64 ? 1e-13 : 1e-7;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < m; ++j) {
        EXPECT_NEAR(iou[i * m + j], reference_iou(&a[5 * i], &b[5 * j]), allowed)
            << describe(dtype) << " " << i << " " << j;
      }
    }
  }
}

TEST(BoxIou, IsSymmetricAndTheSameForPairsAndMatrices) {
  for (DType dtype : kBoxDTypes) {
    const int64_t n = 37;
    const Array a(dtype, hard_boxes(n, dtype, /*seed=*/2)), b(dtype, hard_boxes(n, dtype, 3));
    const Values ab = box_iou(a, b, false, kSerial).values();
    const Values ba = box_iou(b, a, false, kSerial).values();
    const Values pairs = box_iou(a, b, true, kSerial).values();
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(pairs[i], ab[i * n + i]);
      for (int64_t j = 0; j < n; ++j) EXPECT_EQ(ab[i * n + j], ba[j * n + i]);
    }
  }
}

TEST(BoxIou, OfEqualBoxesIsOne) {
  for (DType dtype : kBoxDTypes) {
    const Array boxes(dtype, random_boxes(200, 5e6, dtype, /*seed=*/4));
    for (double value : box_iou(boxes, boxes, true, kSerial).values()) EXPECT_EQ(value, 1.0);
  }
  EXPECT_EQ(iou_of({1, 2, 3, 4, 45}, {1, 2, 4, 3, -45}), 1.0);
  EXPECT_EQ(iou_of({1, 2, 3, 4, 7}, {1, 2, 3, 4, 187}), 1.0);
  EXPECT_EQ(iou_of({1, 2, 1e-6, 60, 33.3}, {1, 2, 60, 1e-6, 123.3 - 180}), 1.0);
  EXPECT_EQ(iou_of({1, 2, 1e-100, 1e100, 12}, {1, 2, 1e-100, 1e100, 12}), 1.0);
}

TEST(BoxIou, OfOtherBoxesIsExact) {
  EXPECT_EQ(iou_of({0, 0, 2, 2, 0}, {1, 0, 2, 2, 0}), 1.0 / 3);
  EXPECT_EQ(iou_of({0, 0, 2, 2, 0}, {2, 0, 2, 2, 0}), 0.0);  // a side in common
  EXPECT_EQ(iou_of({0, 0, 2, 2, 0}, {2, 2, 2, 2, 0}), 0.0);  // a corner in common
  EXPECT_EQ(iou_of({0, 0, 2, 2, 0}, {9, 9, 1, 1, 45}), 0.0);
  EXPECT_NEAR(iou_of({0, 0, 2, 2, 0}, {0, 0, 2, 2, 45}), std::sqrt(0.5), 1e-15);
  EXPECT_EQ(iou_of({0, 0, 4, 4, 30}, {0, 0, 2, 2, 30}), 0.25);
}

TEST(BoxIou, OfBoxesWithoutAreaIsZero) {
  EXPECT_EQ(iou_of({0, 0, 0, 5, 10}, {0, 0, 4, 5, 10}), 0.0);
  EXPECT_EQ(iou_of({0, 0, 0, 5, 10}, {0, 0, 0, 5, 10}), 0.0);
  EXPECT_EQ(iou_of({0, 0, 0, 0, 10}, {0, 0, 0, 0, 10}), 0.0);
}

TEST(BoxIou, OfInvalidBoxesIsNaN) {
  const Values good{1, 1, 4, 5, 10};
  for (int field = 0; field < 5; ++field) {
    for (double value : {kNaN, kInfinity, -kInfinity}) {
      Values bad = good;
      bad[field] = value;
      for (DType dtype : kBoxDTypes) {
        EXPECT_TRUE(std::isnan(iou_of(good, bad, dtype))) << field << " " << value;
        EXPECT_TRUE(std::isnan(iou_of(bad, good, dtype))) << field << " " << value;
        EXPECT_TRUE(std::isnan(iou_of(bad, bad, dtype))) << field << " " << value;
      }
    }
  }
  for (const Values& bad : {Values{1, 1, -4, 5, 10}, Values{1, 1, 4, -5, 10},
                            Values{1, 1, 1e-160, 5, 10}, Values{1e160, 1, 4, 5, 10}}) {
    EXPECT_TRUE(std::isnan(iou_of(good, bad)));
  }
  // Far away, where the bounds alone would say 0.
  const Array row(DType::kFloat64, good);
  const Array columns(DType::kFloat64,
                      Values{1e6, 1,   kNaN,      5, 10, 1e6, 1,         4, 5, 10,
                             1,   1e6, kInfinity, 5, 10, 1,   kInfinity, 4, 5, 10});
  const Values iou = box_iou(row, columns, false, kSerial).values();
  for (int i : {0, 2, 3}) EXPECT_TRUE(std::isnan(iou[i])) << i;
  EXPECT_EQ(iou[1], 0.0);
}

TEST(BoxIou, AnglesOfAnySizeAreReduced) {
  const Values box{1, 1, 4, 9, 10};
  for (double turns : {1.0, -3.0, 1e3, 1e6}) {
    Values turned = box;
    turned[4] += 360 * turns;
    EXPECT_EQ(iou_of(box, turned), 1.0) << turns;
  }
  const double angle = 0x1p60 + 0x1p20;
  EXPECT_NEAR(iou_of({0, 0, 4, 9, angle}, {0, 0, 4, 9, std::fmod(angle, 360.0)}), 1.0, 0.0);
}

TEST(BoxIou, BitsDoNotDependOnThePartition) {
  for (DType dtype : kBoxDTypes) {
    // More columns than a work item has.
    const Array a(dtype, hard_boxes(33, dtype, /*seed=*/5)), b(dtype, hard_boxes(2100, dtype, 6));
    const Array expected = box_iou(a, b, false, kSerial);
    Array grad(dtype, random_values(33 * 2100, dtype, /*seed=*/7)), first(dtype, 33 * 5);
    box_iou_rotated_backward_cpu(grad.data(), a.data(), 33, b.data(), 2100, false, first.data(),
                                 dtype, kSerial);
    for (const ParallelFor& parallel : partitions()) {
      EXPECT_TRUE(box_iou(a, b, false, parallel) == expected);
      EXPECT_TRUE(box_iou(b, b, true, parallel) == box_iou(b, b, true, kSerial));
      Array again(dtype, 33 * 5);
      box_iou_rotated_backward_cpu(grad.data(), a.data(), 33, b.data(), 2100, false, again.data(),
                                   dtype, parallel);
      EXPECT_TRUE(again == first);
    }
  }
}

Values gradient(const Values& grad, const Values& a, const Values& b, bool aligned) {
  const DType dtype = DType::kFloat64;
  const Array boxes1(dtype, a), boxes2(dtype, b), g(dtype, grad);
  Array result(dtype, static_cast<int64_t>(a.size()));
  box_iou_rotated_backward_cpu(g.data(), boxes1.data(), static_cast<int64_t>(a.size() / 5),
                               boxes2.data(), static_cast<int64_t>(b.size() / 5), aligned,
                               result.data(), dtype, kSerial);
  return result.values();
}

TEST(BoxIouBackward, MatchesFiniteDifferences) {
  const int64_t n = 50;
  const Values a = random_boxes(n, 40, DType::kFloat64, /*seed=*/8);
  const Values b = random_boxes(n, 40, DType::kFloat64, /*seed=*/9);
  const Values found = gradient(Values(n, 1.0), a, b, true);
  for (int64_t i = 0; i < n; ++i) {
    for (int field = 0; field < 5; ++field) {
      constexpr double kStep = 1e-5;
      Values more(a.begin() + 5 * i, a.begin() + 5 * i + 5), less = more;
      more[field] += kStep;
      less[field] -= kStep;
      const double slope =
          (reference_iou(more.data(), &b[5 * i]) - reference_iou(less.data(), &b[5 * i])) /
          (2 * kStep);
      EXPECT_NEAR(found[5 * i + field], slope, 1e-7) << i << " " << field;
    }
  }
}

TEST(BoxIouBackward, SumsOverTheMatrix) {
  const int64_t n = 9, m = 14;
  const Values a = random_boxes(n, 60, DType::kFloat64, /*seed=*/10);
  const Values b = random_boxes(m, 60, DType::kFloat64, /*seed=*/11);
  const Values grad = random_values(n * m, DType::kFloat64, /*seed=*/12);
  Values expected(5 * n, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      const Values one =
          gradient({grad[i * m + j]}, Values(a.begin() + 5 * i, a.begin() + 5 * i + 5),
                   Values(b.begin() + 5 * j, b.begin() + 5 * j + 5), true);
      for (int f = 0; f < 5; ++f) expected[5 * i + f] += one[f];
    }
  }
  expect_close(Array(DType::kFloat64, gradient(grad, a, b, false)), expected, "gradient");
}

TEST(BoxIouBackward, IsZeroForEqualAndForSeparateBoxesAndNaNForInvalidOnes) {
  for (const Values& b :
       {Values{1, 2, 30, 40, 25}, Values{1, 2, 40, 30, 115}, Values{500, 2, 30, 40, 25}}) {
    for (double value : gradient({1}, {1, 2, 30, 40, 25}, b, true)) EXPECT_EQ(value, 0.0);
  }
  for (double value : gradient({1}, {1, 2, 30, 40, 25}, {1, 2, kNaN, 40, 25}, true)) {
    EXPECT_TRUE(std::isnan(value));
  }
  for (double value : gradient({1}, {1, 2, 0, 40, 25}, {1, 2, 30, 40, 25}, true)) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

struct Kept {
  std::vector<bool> keep;
  int64_t invalid;
};

Kept nms(const Array& boxes, const std::vector<int64_t>& order, const std::vector<int64_t>& labels,
         double threshold, const ParallelFor& parallel) {
  const int64_t n = static_cast<int64_t>(order.size());
  const std::unique_ptr<bool[]> keep(new bool[n]());
  const int64_t invalid =
      nms_rotated_cpu(boxes.data(), order.data(), labels.empty() ? nullptr : labels.data(), n,
                      threshold, keep.get(), boxes.dtype(), parallel);
  return {std::vector<bool>(keep.get(), keep.get() + n), invalid};
}

TEST(Nms, MatchesItsDefinition) {
  for (DType dtype : kBoxDTypes) {
    // Few and many survivors, and more than one block.
    for (const auto& [n, extent] : {std::pair{300, 60.0}, {700, 2000.0}, {1300, 300.0}, {1, 9.0}}) {
      Values values = random_boxes(n, extent, dtype, /*seed=*/13);
      const Values hard = hard_boxes(n / 3, dtype, /*seed=*/14);
      std::copy(hard.begin(), hard.end(), values.begin());
      const Array boxes(dtype, values);
      const Values iou = box_iou(boxes, boxes, false, kSerial).values();
      const auto order = random_order(n, /*seed=*/15);
      std::vector<int64_t> labels(n);
      for (int64_t i = 0; i < n; ++i) labels[i] = i % 3 == 0 ? -(int64_t{1} << 60) : i % 3;
      for (double threshold : {0.0, 0.1, 0.5, 1.0}) {
        for (const ParallelFor& parallel : {kSerial, kThreads}) {
          EXPECT_EQ(nms(boxes, order, {}, threshold, parallel).keep,
                    reference_nms(iou, order, {}, threshold))
              << n << " " << threshold;
        }
        EXPECT_EQ(nms(boxes, order, labels, threshold, kThreads).keep,
                  reference_nms(iou, order, labels, threshold))
            << n << " " << threshold;
      }
    }
  }
}

TEST(Nms, ReportsAnInvalidBox) {
  Values values = random_boxes(9, 100, DType::kFloat32, /*seed=*/16);
  values[5 * 4 + 2] = -1;
  const Array boxes(DType::kFloat32, values);
  EXPECT_EQ(nms(boxes, random_order(9, 17), {}, 0.5, kSerial).invalid, 4);
}

TEST(Nms, BoxesOfManySizesAndPlaces) {
  for (const double scale : {1e-3, 1.0, 1e6}) {
    Values values = random_boxes(800, 500, DType::kFloat64, /*seed=*/18);
    for (int64_t i = 0; i < 800; ++i) {
      for (int f : {2, 3}) values[5 * i + f] *= std::exp2(i % 12 - 6);
      for (int f : {0, 1, 2, 3}) values[5 * i + f] *= scale;
      values[5 * i] += 5e6;
    }
    const Array boxes(DType::kFloat64, values);
    const auto order = random_order(800, /*seed=*/19);
    EXPECT_EQ(nms(boxes, order, {}, 0.2, kThreads).keep,
              reference_nms(box_iou(boxes, boxes, false, kSerial).values(), order, {}, 0.2));
  }
}

constexpr RoiGrid kGrids[] = {{3, 2, 0.25, 2}, {7, 7, 0.25, 0}, {1, 1, 0.25, 3}, {2, 5, 0.1, 0}};
// NCHW features are resampled plane by plane where boxes have few points: the last one.
struct RoiCase {
  Shape shape;
  int64_t boxes;
};
constexpr RoiCase kRoiCases[] = {
    {{2, 9, 12, 5}, 12}, {{1, 6, 5, 70}, 12}, {{3, 1, 1, 16}, 12}, {{2, 60, 50, 37}, 2}};

// Positions are rounded in float64, and change the result by the features' slope.
void expect_close_to_definition(const Array& y, const Values& expected, const std::string& what) {
  if (y.dtype() != DType::kFloat64) return expect_close(y, expected, what);
  EXPECT_LE(relative_l2_error(y.values(), expected), 1e-13) << what;
}

TEST(RoiAlign, MatchesItsDefinition) {
  for (const auto& [shape, k] : kRoiCases) {
    for (const RoiGrid& grid : kGrids) {
      const Shape result{k, grid.height, grid.width, shape.channels};
      const Values boxes = random_regions(k, shape, /*seed=*/20);
      for (DType dtype : kAllDTypes) {
        const Values x = random_values(count(shape), dtype, /*seed=*/21);
        const Values expected = reference_align(x, boxes, grid, shape);
        for (Layout layout : kBothLayouts) {
          const Array features(dtype, to_layout(x, shape, layout));
          for (const ParallelFor& parallel : {kSerial, kThreads, kCutIn<3>}) {
            Array y(dtype, count(result));
            EXPECT_EQ(roi_align_rotated_cpu(features.data(), boxes.data(), k, grid, y.data(), dtype,
                                            shape, layout, parallel),
                      -1);
            expect_close_to_definition(y, to_layout(expected, result, layout), describe(shape));
          }
        }
      }
    }
  }
}

TEST(RoiAlignBackward, IsTheTranspose) {
  for (const auto& [shape, k] : kRoiCases) {
    for (const RoiGrid& grid : kGrids) {
      const Shape result{k, grid.height, grid.width, shape.channels};
      const Values boxes = random_regions(k, shape, /*seed=*/22);
      // By the definition: one feature at a time would take long, so <y, A x> for some x.
      Values xs[2], ys[2];
      for (uint32_t i = 0; i < 2; ++i) {
        xs[i] = random_values(count(shape), DType::kFloat64, 24 + i);
        ys[i] = reference_align(xs[i], boxes, grid, shape);
      }
      for (DType dtype : kAllDTypes) {
        const Values grad = random_values(count(result), dtype, /*seed=*/23);
        for (Layout layout : kBothLayouts) {
          const Array grad_y(dtype, to_layout(grad, result, layout));
          Array first(dtype, count(shape));
          EXPECT_EQ(roi_align_rotated_backward_cpu(grad_y.data(), boxes.data(), k, grid,
                                                   first.data(), dtype, shape, layout, kSerial),
                    -1);
          const Values gradients = from_layout(first.values(), shape, layout);
          for (int i = 0; i < 2; ++i) {
            double expected = 0, found = 0, size = 0;
            for (int64_t j = 0; j < count(result); ++j) expected += ys[i][j] * grad[j];
            for (int64_t j = 0; j < count(shape); ++j) {
              found += xs[i][j] * gradients[j];
              size += std::fabs(xs[i][j] * gradients[j]);
            }
            const double relative = dtype == DType::kFloat64   ? 1e-13
                                    : dtype == DType::kFloat32 ? 1e-6
                                                               : 1e-2;
            EXPECT_NEAR(found, expected, relative * size) << describe(shape) << describe(dtype);
          }
          for (const ParallelFor& parallel : {kThreads, kCutIn<3>}) {
            Array again(dtype, count(shape));
            roi_align_rotated_backward_cpu(grad_y.data(), boxes.data(), k, grid, again.data(),
                                           dtype, shape, layout, parallel);
            EXPECT_TRUE(again == first) << describe(shape) << describe(dtype);
          }
        }
      }
    }
  }
}

TEST(RoiAlign, InvalidBoxesGiveNaNAndUnknownImagesAreReported) {
  const Shape shape{1, 4, 4, 3};
  const RoiGrid grid{2, 2, 1.0, 0};
  const Array x(DType::kFloat32, random_values(count(shape), DType::kFloat32, /*seed=*/28));
  const Values good{0, 2, 2, 2, 2, 0};
  for (int field = 1; field < 6; ++field) {
    for (double value : {kNaN, kInfinity, -kInfinity}) {
      Values boxes = good;
      boxes[field] = value;
      Array y(DType::kFloat32, 12), grad(DType::kFloat32, count(shape));
      EXPECT_EQ(roi_align_rotated_cpu(x.data(), boxes.data(), 1, grid, y.data(), DType::kFloat32,
                                      shape, Layout::kNhwc, kSerial),
                -1);
      for (double v : y.values()) EXPECT_TRUE(std::isnan(v));
      const Array grad_y(DType::kFloat32, Values(12, 1.0));
      roi_align_rotated_backward_cpu(grad_y.data(), boxes.data(), 1, grid, grad.data(),
                                     DType::kFloat32, shape, Layout::kNhwc, kSerial);
      EXPECT_EQ(grad.values(), Values(count(shape), 0.0));
    }
  }
  for (double image : {-1.0, 1.0, 0.5, kNaN, 1e300}) {
    Values boxes = good;
    boxes.insert(boxes.end(), {image, 2, 2, 2, 2, 0});
    Array y(DType::kFloat32, 24);
    EXPECT_EQ(roi_align_rotated_cpu(x.data(), boxes.data(), 2, grid, y.data(), DType::kFloat32,
                                    shape, Layout::kNhwc, kSerial),
              1);
  }
}

TEST(RoiAlign, HugeBoxesTakeNoLongerThanTheImage) {
  const Shape shape{1, 5, 6, 4};
  const Array x(DType::kFloat64, Values(count(shape), 1.0));
  const RoiGrid grid{7, 7, 1.0, 0};
  for (Layout layout : kBothLayouts) {
    for (double side : {1e4, 1e7, 1e150}) {
      const Values boxes{0, 3, 2, side, side, 30};
      Array y(DType::kFloat64, 49 * 4), grad(DType::kFloat64, count(shape));
      roi_align_rotated_cpu(x.data(), boxes.data(), 1, grid, y.data(), DType::kFloat64, shape,
                            layout, kSerial);
      for (double value : y.values()) EXPECT_TRUE(value >= 0 && value < 0.01);
      roi_align_rotated_backward_cpu(y.data(), boxes.data(), 1, grid, grad.data(), DType::kFloat64,
                                     shape, layout, kSerial);
    }
  }
}

TEST(Boxes, EmptyOperandsAreFine) {
  const Array boxes(DType::kFloat32, random_boxes(3, 10, DType::kFloat32, /*seed=*/29));
  Array grad(DType::kFloat32, 15);
  box_iou_rotated_cpu(boxes.data(), 3, nullptr, 0, false, nullptr, DType::kFloat32, kThreads);
  box_iou_rotated_backward_cpu(nullptr, boxes.data(), 3, nullptr, 0, false, grad.data(),
                               DType::kFloat32, kThreads);
  EXPECT_EQ(grad.values(), Values(15, 0.0));
  EXPECT_EQ(nms_rotated_cpu(nullptr, nullptr, nullptr, 0, 0.5, nullptr, DType::kFloat32, kThreads),
            -1);
  const Shape shape{1, 2, 2, 3};
  Array features(DType::kFloat16, Values(count(shape), 1.0));
  EXPECT_EQ(roi_align_rotated_cpu(features.data(), nullptr, 0, {2, 2, 1.0, 0}, nullptr,
                                  DType::kFloat16, shape, Layout::kNchw, kThreads),
            -1);
  EXPECT_EQ(roi_align_rotated_backward_cpu(nullptr, nullptr, 0, {2, 2, 1.0, 0}, features.data(),
                                           DType::kFloat16, shape, Layout::kNchw, kThreads),
            -1);
  EXPECT_EQ(features.values(), Values(count(shape), 0.0));
}

// Any bits: no crash, and nothing outside of [0, 1] but NaN.
TEST(Boxes, GarbageGivesNoNumber) {
  std::mt19937_64 engine(30);
  for (DType dtype : kBoxDTypes) {
    const int64_t n = 61;
    Array boxes(dtype, 5 * n);
    for (int round = 0; round < 20; ++round) {
      auto* bytes = static_cast<unsigned char*>(boxes.data());
      const int64_t size = 5 * n * (dtype == DType::kFloat64 ? 8 : 4);
      for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(engine());
      for (double value : box_iou(boxes, boxes, false, kSerial).values()) {
        EXPECT_TRUE(std::isnan(value) || (value >= 0 && value <= 1)) << value;
      }
      Array grad(dtype, Values(n * n, 1.0)), result(dtype, 5 * n);
      box_iou_rotated_backward_cpu(grad.data(), boxes.data(), n, boxes.data(), n, false,
                                   result.data(), dtype, kSerial);
      nms(boxes, random_order(n, 31), {}, 0.5, kSerial);
    }
  }
}

}  // namespace
}  // namespace rsvheat::testing
