// SPDX-License-Identifier: Apache-2.0
#include "core/boxes.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "boxes_checks.h"
#include "stable_compat.h"

namespace rsvheat {
namespace {

Tensor box_iou_rotated(const Tensor& boxes1, const Tensor& boxes2, bool aligned) {
  constexpr const char* kOp = "box_iou_rotated";
  check_box_pair(kOp, boxes1, boxes2, aligned);
  const Tensor first = dense(boxes1), second = dense(boxes2);
  Tensor iou = empty_iou(first, second, aligned);
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    box_iou_rotated_cpu(first.const_data_ptr(), first.size(0), second.const_data_ptr(),
                        second.size(0), aligned, iou.mutable_data_ptr(),
                        dtype_of(kOp, "boxes1", first), parallel);
  });
  return iou;
}

Tensor box_iou_rotated_backward(const Tensor& grad_any_strides, const Tensor& boxes1,
                                const Tensor& boxes2, bool aligned) {
  constexpr const char* kOp = "_box_iou_rotated_backward";
  check_box_pair(kOp, boxes1, boxes2, aligned);
  check_iou_gradient(kOp, grad_any_strides, boxes1, boxes2, aligned);
  const Tensor grad = dense(grad_any_strides), first = dense(boxes1), second = dense(boxes2);
  Tensor result = empty_like_dense(first);
  run_kernel(kOp, [&](const ParallelFor& parallel) {
    box_iou_rotated_backward_cpu(grad.const_data_ptr(), first.const_data_ptr(), first.size(0),
                                 second.const_data_ptr(), second.size(0), aligned,
                                 result.mutable_data_ptr(), dtype_of(kOp, "boxes1", first),
                                 parallel);
  });
  return result;
}

Tensor nms_rotated(const Tensor& boxes_any_strides, const Tensor& order_any_strides,
                   const Tensor& labels_any_strides, double iou_threshold) {
  constexpr const char* kOp = "nms_rotated";
  const int64_t n = check_nms(kOp, boxes_any_strides, order_any_strides, labels_any_strides);
  const Tensor boxes = dense(boxes_any_strides), order = dense(order_any_strides);
  const Tensor labels = dense(labels_any_strides);
  const int64_t* places = order.const_data_ptr<int64_t>();
  std::vector<bool> seen(n, false);
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(places[i] >= 0 && places[i] < n && !seen[places[i]], kOp,
                    ": order must be a permutation of 0 to ", n - 1, ", but order[", i, "] is ",
                    places[i]);
    seen[places[i]] = true;
  }
  const std::array<int64_t, 1> sizes{n};
  Tensor keep = torch::stable::new_empty(boxes, {sizes.data(), sizes.size()}, ScalarType::Bool);
  const int64_t invalid = run_kernel(kOp, [&](const ParallelFor& parallel) {
    return nms_rotated_cpu(boxes.const_data_ptr(), places,
                           labels.size(0) == 0 ? nullptr : labels.const_data_ptr<int64_t>(), n,
                           iou_threshold, static_cast<bool*>(keep.mutable_data_ptr()),
                           dtype_of(kOp, "boxes", boxes), parallel);
  });
  STD_TORCH_CHECK(invalid < 0, kOp, ": boxes must be finite with sides >= 0, but boxes[", invalid,
                  "] is not");
  return keep;
}

void check_image(const char* op, int64_t invalid, const Tensor& boxes, int64_t images) {
  STD_TORCH_CHECK(invalid < 0, op, ": boxes[:, 0] must be the number of an image, 0 to ",
                  images - 1, ", but boxes[", invalid, ", 0] is ",
                  boxes.const_data_ptr<double>()[6 * std::max<int64_t>(invalid, 0)]);
}

Tensor roi_align_rotated(const Tensor& x_any_strides, const Tensor& boxes_any_strides,
                         int64_t output_height, int64_t output_width, double spatial_scale,
                         int64_t sampling_ratio, bool channels_last) {
  constexpr const char* kOp = "roi_align_rotated";
  const RegionShapes shapes(kOp, x_any_strides, boxes_any_strides, output_height, output_width,
                            spatial_scale, sampling_ratio, channels_last);
  const Tensor x = dense(x_any_strides), boxes = dense(boxes_any_strides);
  Tensor y = empty_images(x, shapes.result, shapes.layout);
  const int64_t invalid = run_kernel(kOp, [&](const ParallelFor& parallel) {
    return roi_align_rotated_cpu(x.const_data_ptr(), boxes.const_data_ptr<double>(), boxes.size(0),
                                 shapes.grid, y.mutable_data_ptr(), dtype_of(kOp, "x", x),
                                 shapes.features, shapes.layout, parallel);
  });
  check_image(kOp, invalid, boxes, shapes.features.batch);
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
  const int64_t invalid = run_kernel(kOp, [&](const ParallelFor& parallel) {
    return roi_align_rotated_backward_cpu(grad.const_data_ptr(), boxes.const_data_ptr<double>(),
                                          boxes.size(0), shapes.grid, result.mutable_data_ptr(),
                                          dtype_of(kOp, "grad_y", grad), shapes.features,
                                          shapes.layout, parallel);
  });
  check_image(kOp, invalid, boxes, batch);
  return result;
}

}  // namespace
}  // namespace rsvheat

STABLE_TORCH_LIBRARY_IMPL(rsvheat, CPU, m) {
  m.impl("box_iou_rotated", TORCH_BOX(&rsvheat::box_iou_rotated));
  m.impl("_box_iou_rotated_backward", TORCH_BOX(&rsvheat::box_iou_rotated_backward));
  m.impl("nms_rotated", TORCH_BOX(&rsvheat::nms_rotated));
  m.impl("roi_align_rotated", TORCH_BOX(&rsvheat::roi_align_rotated));
  m.impl("_roi_align_rotated_backward", TORCH_BOX(&rsvheat::roi_align_rotated_backward));
}
