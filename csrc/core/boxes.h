// SPDX-License-Identifier: Apache-2.0
// Operators on rotated boxes. A box is five numbers: center x and y, width, height, angle in
// degrees. y points down, the width's axis is (cos(angle), -sin(angle)): counter-clockwise as seen
// in an image. A box with a value that is NaN or infinite, or with a negative side, is invalid, as
// is one with a center or a side beyond 1e150 or a side in (0, 1e-150).
//
// Operands are dense; results do not overlap them. Results do not depend on the number of threads.
#pragma once

#include "export.h"
#include "types.h"

namespace rsvheat {

// `boxes1` (n, 5), `boxes2` (m, 5), kFloat32 or kFloat64, as is `iou`: (n, m), or (n,) of boxes in
// the same row if `aligned`; then n = m. NaN where a box is invalid.
RSVHEAT_API void box_iou_rotated_cpu(const void* boxes1, int64_t n, const void* boxes2, int64_t m,
                                     bool aligned, void* iou, DType dtype,
                                     const ParallelFor& parallel);

// `grad_boxes1` (n, 5) from `grad` of the shape of iou. The matrix is symmetric in its arguments:
// for boxes2, exchange them and transpose grad.
RSVHEAT_API void box_iou_rotated_backward_cpu(const void* grad, const void* boxes1, int64_t n,
                                              const void* boxes2, int64_t m, bool aligned,
                                              void* grad_boxes1, DType dtype,
                                              const ParallelFor& parallel);

// Greedy non-maximum suppression of `boxes` (n, 5) in the sequence order[0], order[1], ...: keep[i]
// tells whether boxes[order[i]] stays, which it does unless its ratio with a box of the same label
// that stays and comes earlier, rounded to dtype, exceeds `threshold`. `labels` (n,) may be null.
// Memory: about 250 bytes a box. Returns -1, or the number of an invalid box; keep is then
// undefined.
RSVHEAT_API int64_t nms_rotated_cpu(const void* boxes, const int64_t* order, const int64_t* labels,
                                    int64_t n, double threshold, bool* keep, DType dtype,
                                    const ParallelFor& parallel);

struct RoiGrid {
  int64_t height, width;   // bins
  double scale;            // pixels of the features per unit of the boxes
  int64_t sampling_ratio;  // samples a bin along each axis; 0: one a pixel, rounded up
};

// Features `x` of any dtype, and `y` in x's dtype and layout: (k, height, width, C) of NHWC
// features, (k, C, height, width) of NCHW features; `boxes` (k, 6), float64, the image's number
// first. What an invalid box gives is NaN. Returns -1, or the number of a box whose image is not
// one of the B; y is then undefined.
RSVHEAT_API int64_t roi_align_rotated_cpu(const void* x, const double* boxes, int64_t k,
                                          RoiGrid grid, void* y, DType dtype, Shape shape,
                                          Layout layout, const ParallelFor& parallel);

// `grad_x` from `grad_y`, of the shapes of x and y; invalid boxes give nothing.
RSVHEAT_API int64_t roi_align_rotated_backward_cpu(const void* grad_y, const double* boxes,
                                                   int64_t k, RoiGrid grid, void* grad_x,
                                                   DType dtype, Shape shape, Layout layout,
                                                   const ParallelFor& parallel);

}  // namespace rsvheat
