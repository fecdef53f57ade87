// SPDX-License-Identifier: Apache-2.0
// The operators on rotated boxes, compared with the CPU kernels.
#include <cmath>
#include <limits>

#include "../boxes_support.h"
#include "core/cuda/boxes.h"
#include "kernels.h"

namespace rsvheat::testing {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

int64_t boxes_in(const Array& array) { return static_cast<int64_t>(array.values().size()) / 5; }

Array emulated_iou(const Array& a, const Array& b, bool aligned) {
  const int64_t n = boxes_in(a), m = boxes_in(b);
  Array iou(a.dtype(), aligned ? n : n * m);
  Workspace workspace(box_iou_rotated_cuda_workspace(n, m));
  expect_ok(box_iou_rotated_cuda(a.data(), n, b.data(), m, aligned, iou.data(), a.dtype(),
                                 workspace.data(), nullptr));
  return iou;
}

TEST(CudaBoxIou, HasTheBitsOfTheCpu) {
  for (DType dtype : kBoxDTypes) {
    const int64_t n = 45, m = 70;
    Values values = hard_boxes(m, dtype, /*seed=*/71);
    values[5 * 8] = kNaN;
    const Array a(dtype, hard_boxes(n, dtype, /*seed=*/70)), b(dtype, values);
    EXPECT_TRUE(emulated_iou(a, b, false) == box_iou(a, b, false, kSerial)) << describe(dtype);
    EXPECT_TRUE(emulated_iou(b, b, true) == box_iou(b, b, true, kSerial)) << describe(dtype);
  }
}

TEST(CudaBoxIou, GradientsAreTheCpus) {
  for (DType dtype : kBoxDTypes) {
    for (const bool aligned : {true, false}) {
      const int64_t n = 40, m = aligned ? n : 90;
      const Array a(dtype, random_boxes(n, 100, dtype, /*seed=*/72));
      const Array b(dtype, random_boxes(m, 100, dtype, /*seed=*/75));
      const Array grad(dtype, random_values(aligned ? n : n * m, dtype, /*seed=*/78));
      Array found(dtype, 5 * n), expected(dtype, 5 * n);
      Workspace workspace(box_iou_rotated_cuda_workspace(n, m));
      expect_ok(box_iou_rotated_backward_cuda(grad.data(), a.data(), n, b.data(), m, aligned,
                                              found.data(), dtype, workspace.data(), nullptr));
      box_iou_rotated_backward_cpu(grad.data(), a.data(), n, b.data(), m, aligned, expected.data(),
                                   dtype, kSerial);
      expect_close(found, expected.values(), "gradient");
    }
  }
}

TEST(CudaNms, MatchesItsDefinition) {
  // A block has 2,048 boxes on a device, 256 here.
  for (const auto& [n, extent] : {std::pair{60, 50.0}, {330, 600.0}}) {
    for (DType dtype : kBoxDTypes) {
      const Array boxes(dtype, random_boxes(n, extent, dtype, /*seed=*/79));
      const Values iou = box_iou(boxes, boxes, false, kSerial).values();
      const auto order = random_order(n, /*seed=*/80);
      std::vector<int64_t> labels(n);
      for (int64_t i = 0; i < n; ++i) labels[i] = i % 2;
      for (const bool labeled : {false, true}) {
        const std::unique_ptr<bool[]> keep(new bool[n]());
        Workspace workspace(nms_rotated_cuda_workspace(n));
        expect_ok(nms_rotated_cuda(boxes.data(), order.data(), labeled ? labels.data() : nullptr, n,
                                   0.1, keep.get(), dtype, workspace.data(), nullptr));
        EXPECT_EQ(std::vector<bool>(keep.get(), keep.get() + n),
                  reference_nms(iou, order, labeled ? labels : std::vector<int64_t>{}, 0.1));
      }
    }
  }
}

constexpr RoiGrid kGrids[] = {{3, 2, 0.25, 2}, {4, 4, 0.25, 0}};

TEST(CudaRoiAlign, MatchesItsDefinition) {
  for (const Shape shape : {Shape{2, 7, 9, 5}, Shape{1, 3, 4, 40}}) {
    for (const RoiGrid& grid : kGrids) {
      const int64_t k = 6;
      const Shape result{k, grid.height, grid.width, shape.channels};
      const Values boxes = random_regions(k, shape, /*seed=*/81);
      for (DType dtype : kAllDTypes) {
        const Values x = random_values(count(shape), dtype, /*seed=*/82);
        const Values expected = reference_align(x, boxes, grid, shape);
        for (Layout layout : kBothLayouts) {
          const Array features(dtype, to_layout(x, shape, layout));
          Array y(dtype, count(result));
          Workspace workspace(roi_align_rotated_cuda_workspace(k));
          expect_ok(roi_align_rotated_cuda(features.data(), boxes.data(), k, grid, y.data(), dtype,
                                           shape, layout, workspace.data(), nullptr));
          expect_close(y, to_layout(expected, result, layout), describe(shape));
        }
      }
    }
  }
}

TEST(CudaRoiAlign, GradientsAreTheCpus) {
  for (const Shape shape : {Shape{2, 7, 9, 5}, Shape{1, 3, 4, 40}}) {
    for (const RoiGrid& grid : kGrids) {
      const int64_t k = 6;
      const Shape result{k, grid.height, grid.width, shape.channels};
      const Values boxes = random_regions(k, shape, /*seed=*/83);
      for (DType dtype : kAllDTypes) {
        for (Layout layout : kBothLayouts) {
          const Array grad(dtype, random_values(count(result), dtype, /*seed=*/84));
          Array found(dtype, count(shape)), expected(DType::kFloat64, count(shape));
          Workspace workspace(roi_align_rotated_cuda_workspace(k));
          expect_ok(roi_align_rotated_backward_cuda(grad.data(), boxes.data(), k, grid,
                                                    found.data(), dtype, shape, layout,
                                                    workspace.data(), nullptr));
          const Array exact(DType::kFloat64, grad.values());
          roi_align_rotated_backward_cpu(exact.data(), boxes.data(), k, grid, expected.data(),
                                         DType::kFloat64, shape, layout, kSerial);
          expect_close(found, expected.values(), describe(shape));
        }
      }
    }
  }
}

TEST(CudaRoiAlign, InvalidBoxesAndUnknownImagesGiveNaN) {
  const Shape shape{1, 3, 3, 2};
  const RoiGrid grid{1, 1, 1.0, 0};
  const Array x(DType::kFloat32, Values(count(shape), 1.0));
  const Values boxes{0, 1, 1, kNaN, 1, 0, 1, 1, 1, 1, 1, 0, kNaN, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0};
  Array y(DType::kFloat32, 8), grad(DType::kFloat32, count(shape));
  Workspace workspace(roi_align_rotated_cuda_workspace(4));
  expect_ok(roi_align_rotated_cuda(x.data(), boxes.data(), 4, grid, y.data(), DType::kFloat32,
                                   shape, Layout::kNhwc, workspace.data(), nullptr));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(std::isnan(y.values()[i]), i < 6) << i;
  const Array grad_y(DType::kFloat32, Values(8, 1.0));
  expect_ok(roi_align_rotated_backward_cuda(grad_y.data(), boxes.data(), 4, grid, grad.data(),
                                            DType::kFloat32, shape, Layout::kNhwc, workspace.data(),
                                            nullptr));
  double sum = 0;
  for (double value : grad.values()) sum += value;
  EXPECT_NEAR(sum, 2.0, 1e-6);
}

TEST(CudaBoxes, EmptyOperandsAreFine) {
  expect_ok(box_iou_rotated_cuda(nullptr, 0, nullptr, 3, false, nullptr, DType::kFloat32, nullptr,
                                 nullptr));
  expect_ok(nms_rotated_cuda(nullptr, nullptr, nullptr, 0, 0.5, nullptr, DType::kFloat32, nullptr,
                             nullptr));
  const Shape shape{1, 2, 2, 3};
  Array grad(DType::kFloat32, count(shape));
  expect_ok(roi_align_rotated_cuda(nullptr, nullptr, 0, kGrids[0], nullptr, DType::kFloat32, shape,
                                   Layout::kNhwc, nullptr, nullptr));
  expect_ok(roi_align_rotated_backward_cuda(nullptr, nullptr, 0, kGrids[0], grad.data(),
                                            DType::kFloat32, shape, Layout::kNhwc, nullptr,
                                            nullptr));
  EXPECT_EQ(grad.values(), Values(count(shape), 0.0));
}

// For ThreadSanitizer, as in emulation_test.cpp.
TEST(CudaBarriers, BoxGradient) {
  const DType dtype = DType::kFloat32;
  const Array boxes(dtype, random_boxes(2, 20, dtype, /*seed=*/85));
  const Array grad(dtype, Values(4, 1.0));
  Array result(dtype, 10);
  Workspace workspace(box_iou_rotated_cuda_workspace(2, 2));
  expect_ok(box_iou_rotated_backward_cuda(grad.data(), boxes.data(), 2, boxes.data(), 2, false,
                                          result.data(), dtype, workspace.data(), nullptr));
}

TEST(CudaBarriers, Nms) {
  const Array boxes(DType::kFloat32, random_boxes(130, 300, DType::kFloat32, /*seed=*/86));
  const auto order = random_order(130, /*seed=*/87);
  const std::unique_ptr<bool[]> keep(new bool[130]());
  Workspace workspace(nms_rotated_cuda_workspace(130));
  expect_ok(nms_rotated_cuda(boxes.data(), order.data(), nullptr, 130, 0.1, keep.get(),
                             DType::kFloat32, workspace.data(), nullptr));
}

}  // namespace
}  // namespace rsvheat::testing
