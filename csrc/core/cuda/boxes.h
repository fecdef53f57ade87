// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../boxes.h; pointers, workspace and stream as in heat_conduction.h, except
// that nothing has to be created before a capture. Values are not checked, as that would
// synchronize: an invalid box, or an image that there is not, gives NaN, and nothing to a gradient;
// in the suppression it stays and suppresses nothing.
#pragma once

#include <cstddef>

#include "../boxes.h"
#include "status.h"

namespace rsvheat {

size_t box_iou_rotated_cuda_workspace(int64_t n, int64_t m);
Status box_iou_rotated_cuda(const void* boxes1, int64_t n, const void* boxes2, int64_t m,
                            bool aligned, void* iou, DType dtype, void* workspace,
                            cudaStream_t stream);
// Takes the same workspace. The columns are summed in a fixed order.
Status box_iou_rotated_backward_cuda(const void* grad, const void* boxes1, int64_t n,
                                     const void* boxes2, int64_t m, bool aligned, void* grad_boxes1,
                                     DType dtype, void* workspace, cudaStream_t stream);

size_t nms_rotated_cuda_workspace(int64_t n);
Status nms_rotated_cuda(const void* boxes, const int64_t* order, const int64_t* labels, int64_t n,
                        double threshold, bool* keep, DType dtype, void* workspace,
                        cudaStream_t stream);

// NHWC features are read in whole lines, NCHW ones are not.
size_t roi_align_rotated_cuda_workspace(int64_t k);
Status roi_align_rotated_cuda(const void* x, const double* boxes, int64_t k, RoiGrid grid, void* y,
                              DType dtype, Shape shape, Layout layout, void* workspace,
                              cudaStream_t stream);
// Takes the same workspace. Each pixel's gradient is summed in the order of the boxes: no atomics.
Status roi_align_rotated_backward_cuda(const void* grad_y, const double* boxes, int64_t k,
                                       RoiGrid grid, void* grad_x, DType dtype, Shape shape,
                                       Layout layout, void* workspace, cudaStream_t stream);

}  // namespace rsvheat
