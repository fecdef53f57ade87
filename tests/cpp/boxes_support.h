// SPDX-License-Identifier: Apache-2.0
// Rotated boxes for the tests of the CPU and of the emulated CUDA kernels.
#pragma once

#include "core/boxes.h"
#include "support.h"

namespace rsvheat::testing {

inline constexpr DType kBoxDTypes[] = {DType::kFloat32, DType::kFloat64};

// Centers in [0, extent), sides in [5, 60), any angle; five values a box.
Values random_boxes(int64_t count, double extent, DType dtype, uint32_t seed);

// The same with hard cases among them: equal, nested, thin, empty and shifted boxes, quarter turns.
Values hard_boxes(int64_t count, DType dtype, uint32_t seed);

// By clipping polygons in long double; of boxes with no extreme aspect ratio.
double reference_iou(const double* a, const double* b);

// Of each pair; rows of `a` with those of `b` if aligned.
Array box_iou(const Array& a, const Array& b, bool aligned, const ParallelFor& parallel);

// The greedy algorithm as it is defined, on the matrix of box_iou.
std::vector<bool> reference_nms(const Values& iou, const std::vector<int64_t>& order,
                                const std::vector<int64_t>& labels, double threshold);

// A permutation of 0 ... count - 1.
std::vector<int64_t> random_order(int64_t count, uint32_t seed);

// Boxes (k, 6) on the images of `shape`, NHWC features of a quarter of the boxes' resolution.
Values random_regions(int64_t k, Shape shape, uint32_t seed);

// NHWC values in another layout, and back.
Values to_layout(const Values& nhwc, Shape shape, Layout layout);
Values from_layout(const Values& values, Shape shape, Layout layout);

// roi_align_rotated of NHWC features by its definition, one sample after the other.
Values reference_align(const Values& x, const Values& boxes, RoiGrid grid, Shape shape);

}  // namespace rsvheat::testing
