// SPDX-License-Identifier: Apache-2.0
// Checks of the operators on rotated boxes, for both devices.
#pragma once

#include "checks.h"
#include "core/boxes.h"

namespace rsvheat {

// Boxes (N, 5), float32 or float64; returns N.
inline int64_t check_boxes(const char* op, const char* name, const Tensor& boxes) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 5, op, ": ", name,
                  " must be (N, 5), but it has shape ", sizes_to_string(boxes));
  STD_TORCH_CHECK(
      boxes.scalar_type() == ScalarType::Float || boxes.scalar_type() == ScalarType::Double, op,
      ": ", name, " must be float32 or float64, but it is ",
      torch::headeronly::toString(boxes.scalar_type()));
  return boxes.size(0);
}

inline void check_box_pair(const char* op, const Tensor& boxes1, const Tensor& boxes2,
                           bool aligned) {
  const int64_t n = check_boxes(op, "boxes1", boxes1), m = check_boxes(op, "boxes2", boxes2);
  check_dtype(op, "boxes2", boxes2, boxes1.scalar_type());
  check_same_device(op, "boxes2", boxes2, "boxes1", boxes1);
  STD_TORCH_CHECK(!aligned || n == m, op,
                  ": aligned boxes must be as many in boxes1 as in boxes2, "
                  "but they are ",
                  n, " and ", m);
}

// `grad` of the result for this pair.
inline void check_iou_gradient(const char* op, const Tensor& grad, const Tensor& boxes1,
                               const Tensor& boxes2, bool aligned) {
  const bool fits =
      aligned ? grad.dim() == 1 && grad.size(0) == boxes1.size(0)
              : grad.dim() == 2 && grad.size(0) == boxes1.size(0) && grad.size(1) == boxes2.size(0);
  STD_TORCH_CHECK(fits, op, ": grad must have the shape of the result, but it has ",
                  sizes_to_string(grad));
  check_dtype(op, "grad", grad, boxes1.scalar_type());
  check_same_device(op, "grad", grad, "boxes1", boxes1);
}

inline Tensor empty_iou(const Tensor& boxes1, const Tensor& boxes2, bool aligned) {
  const std::array<int64_t, 2> sizes{boxes1.size(0), boxes2.size(0)};
  return torch::stable::new_empty(boxes1, {sizes.data(), aligned ? size_t{1} : size_t{2}});
}

// Boxes in the order order[0], order[1], ..., which has to be a permutation of 0 ... N - 1 where
// its values can be read; `labels` is (N,), or (0,) for none.
inline int64_t check_nms(const char* op, const Tensor& boxes, const Tensor& order,
                         const Tensor& labels) {
  const int64_t n = check_boxes(op, "boxes", boxes);
  STD_TORCH_CHECK(n < int64_t{1} << 31, op, ": boxes must be fewer than 2^31, but they are ", n);
  STD_TORCH_CHECK(order.dim() == 1 && order.size(0) == n, op, ": order must be (N,) = (", n,
                  ",), but it has shape ", sizes_to_string(order));
  STD_TORCH_CHECK(labels.dim() == 1 && (labels.size(0) == n || labels.size(0) == 0), op,
                  ": labels must be (N,) = (", n, ",) or empty, but it has shape ",
                  sizes_to_string(labels));
  check_dtype(op, "order", order, ScalarType::Long);
  check_dtype(op, "labels", labels, ScalarType::Long);
  check_same_device(op, "order", order, "boxes", boxes);
  check_same_device(op, "labels", labels, "boxes", boxes);
  return n;
}

// Regions (K, 6), float64, beside NHWC features; returns K.
inline int64_t check_rois(const char* op, const Tensor& boxes, const Tensor& like, RoiGrid grid) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 6, op,
                  ": boxes must be (K, 6), but it has shape ", sizes_to_string(boxes));
  check_dtype(op, "boxes", boxes, ScalarType::Double);
  check_same_device(op, "boxes", boxes, "the features", like);
  STD_TORCH_CHECK(grid.height > 0 && grid.width > 0, op,
                  ": output_size must be positive, but it is (", grid.height, ", ", grid.width,
                  ")");
  STD_TORCH_CHECK(grid.scale > 0, op, ": spatial_scale must be positive, but it is ", grid.scale);
  STD_TORCH_CHECK(grid.sampling_ratio <= 1024, op,
                  ": sampling_ratio must be at most 1024, but it is ", grid.sampling_ratio);
  return boxes.size(0);
}

// (B, H, W, C), without the limit of the transforms.
inline Shape check_features(const char* op, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, op, ": x must be (B, H, W, C), but it has shape ",
                  sizes_to_string(x));
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0, op,
                  ": height and width of x must be positive, but it has shape ",
                  sizes_to_string(x));
  return {x.size(0), x.size(1), x.size(2), x.size(3)};
}

inline Tensor empty_nhwc(const Tensor& like, int64_t b, int64_t h, int64_t w, int64_t c) {
  const std::array<int64_t, 4> sizes{b, h, w, c};
  return torch::stable::new_empty(like, {sizes.data(), sizes.size()});
}

// The gradient of features (batch, height, width, C), for that of what was resampled from them.
inline Tensor empty_gradient(const char* op, const Tensor& grad_y, const Tensor& boxes,
                             int64_t batch, int64_t height, int64_t width) {
  STD_TORCH_CHECK(grad_y.dim() == 4 && boxes.dim() == 2 && grad_y.size(0) == boxes.size(0), op,
                  ": grad_y must be (K, output_height, output_width, C), a row for each of the "
                  "boxes, but it has shape ",
                  sizes_to_string(grad_y));
  STD_TORCH_CHECK(batch >= 0 && height > 0 && width > 0, op,
                  ": the features must be (B, H, W, C) with positive H and W, but they are (",
                  batch, ", ", height, ", ", width, ", C)");
  return empty_nhwc(grad_y, batch, height, width, grad_y.size(3));
}

}  // namespace rsvheat
