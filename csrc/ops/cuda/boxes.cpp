// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/boxes.h"

#include <torch/csrc/stable/library.h>

#include "../boxes_checks.h"
#include "run.h"

namespace rsvheat {
namespace {

// run_on_device with a workspace whose size is known beforehand.
template <class Run>
void run_with(const char* op, const Tensor& like, size_t workspace_bytes, const Run& run) {
  run_on_device(
      op, like,
      [&](cudaStream_t, size_t* bytes) {
        *bytes = workspace_bytes;
        return Status{};
      },
      run);
}

Tensor box_iou_rotated(const Tensor& boxes1, const Tensor& boxes2, bool aligned) {
  constexpr const char* kOp = "box_iou_rotated";
  check_box_pair(kOp, boxes1, boxes2, aligned);
  const Tensor first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor iou = empty_iou(first, second, aligned);
  run_with(kOp, first, box_iou_rotated_cuda_workspace(n, m),
           [&](void* workspace, cudaStream_t stream) {
             return box_iou_rotated_cuda(first.const_data_ptr(), n, second.const_data_ptr(), m,
                                         aligned, iou.mutable_data_ptr(),
                                         dtype_of(kOp, "boxes1", first), workspace, stream);
           });
  return iou;
}

Tensor box_iou_rotated_backward(const Tensor& grad_any_strides, const Tensor& boxes1,
                                const Tensor& boxes2, bool aligned) {
  constexpr const char* kOp = "_box_iou_rotated_backward";
  check_box_pair(kOp, boxes1, boxes2, aligned);
  check_iou_gradient(kOp, grad_any_strides, boxes1, boxes2, aligned);
  const Tensor grad = dense(grad_any_strides), first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor result = empty_like_dense(first);
  run_with(
      kOp, first, box_iou_rotated_cuda_workspace(n, m), [&](void* workspace, cudaStream_t stream) {
        return box_iou_rotated_backward_cuda(
            grad.const_data_ptr(), first.const_data_ptr(), n, second.const_data_ptr(), m, aligned,
            result.mutable_data_ptr(), dtype_of(kOp, "boxes1", first), workspace, stream);
      });
  return result;
}

Tensor nms_rotated(const Tensor& boxes_any_strides, const Tensor& order_any_strides,
                   const Tensor& labels_any_strides, double iou_threshold) {
  constexpr const char* kOp = "nms_rotated";
  const int64_t n = check_nms(kOp, boxes_any_strides, order_any_strides, labels_any_strides);
  const Tensor boxes = dense(boxes_any_strides), order = dense(order_any_strides);
  const Tensor labels = dense(labels_any_strides);
  const std::array<int64_t, 1> sizes{n};
  Tensor keep = torch::stable::new_empty(boxes, {sizes.data(), sizes.size()}, ScalarType::Bool);
  run_with(kOp, boxes, nms_rotated_cuda_workspace(n), [&](void* workspace, cudaStream_t stream) {
    return nms_rotated_cuda(boxes.const_data_ptr(), order.const_data_ptr<int64_t>(),
                            labels.size(0) == 0 ? nullptr : labels.const_data_ptr<int64_t>(), n,
                            iou_threshold, static_cast<bool*>(keep.mutable_data_ptr()),
                            dtype_of(kOp, "boxes", boxes), workspace, stream);
  });
  return keep;
}

Tensor roi_align_rotated(const Tensor& x_any_strides, const Tensor& boxes_any_strides,
                         int64_t output_height, int64_t output_width, double spatial_scale,
                         int64_t sampling_ratio, bool channels_last) {
  constexpr const char* kOp = "roi_align_rotated";
  const RegionShapes shapes(kOp, x_any_strides, boxes_any_strides, output_height, output_width,
                            spatial_scale, sampling_ratio, channels_last);
  const Tensor x = dense(x_any_strides), boxes = dense(boxes_any_strides);
  Tensor y = empty_images(x, shapes.result, shapes.layout);
  run_with(kOp, x, roi_align_rotated_cuda_workspace(boxes.size(0)),
           [&](void* workspace, cudaStream_t stream) {
             return roi_align_rotated_cuda(x.const_data_ptr(), boxes.const_data_ptr<double>(),
                                           boxes.size(0), shapes.grid, y.mutable_data_ptr(),
                                           dtype_of(kOp, "x", x), shapes.features, shapes.layout,
                                           workspace, stream);
           });
  return y;
}

Tensor roi_align_rotated_backward(const Tensor& grad_any_strides, const Tensor& boxes_any_strides,
                                  int64_t batch, int64_t height, int64_t width,
                                  double spatial_scale, int64_t sampling_ratio,
                                  bool channels_last) {
  constexpr const char* kOp = "_roi_align_rotated_backward";
  const RegionShapes shapes =
      RegionShapes::of_gradient(kOp, grad_any_strides, boxes_any_strides, batch, height, width,
                                spatial_scale, sampling_ratio, channels_last);
  const Tensor grad = dense(grad_any_strides), boxes = dense(boxes_any_strides);
  Tensor result = empty_images(grad, shapes.features, shapes.layout);
  run_with(kOp, grad, roi_align_rotated_cuda_workspace(boxes.size(0)),
           [&](void* workspace, cudaStream_t stream) {
             return roi_align_rotated_backward_cuda(
                 grad.const_data_ptr(), boxes.const_data_ptr<double>(), boxes.size(0), shapes.grid,
                 result.mutable_data_ptr(), dtype_of(kOp, "grad_y", grad), shapes.features,
                 shapes.layout, workspace, stream);
           });
  return result;
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CUDA, m) {
  m.impl("box_iou_rotated", TORCH_BOX(&rsvheat::box_iou_rotated));
  m.impl("_box_iou_rotated_backward", TORCH_BOX(&rsvheat::box_iou_rotated_backward));
  m.impl("nms_rotated", TORCH_BOX(&rsvheat::nms_rotated));
  m.impl("roi_align_rotated", TORCH_BOX(&rsvheat::roi_align_rotated));
  m.impl("_roi_align_rotated_backward", TORCH_BOX(&rsvheat::roi_align_rotated_backward));
}
