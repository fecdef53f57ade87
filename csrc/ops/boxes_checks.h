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

inline Layout layout_of(bool channels_last) {
  return channels_last ? Layout::kNhwc : Layout::kNchw;
}

// (B, H, W, C) or (B, C, H, W), without the limit of the transforms.
inline Shape check_features(const char* op, const char* name, const Tensor& x, Layout layout) {
  const bool nhwc = layout == Layout::kNhwc;
  STD_TORCH_CHECK(x.dim() == 4, op, ": ", name, " must be ", nhwc ? "(B, H, W, C)" : "(B, C, H, W)",
                  ", but it has shape ", sizes_to_string(x));
  const Shape shape = nhwc ? Shape{x.size(0), x.size(1), x.size(2), x.size(3)}
                           : Shape{x.size(0), x.size(2), x.size(3), x.size(1)};
  STD_TORCH_CHECK(shape.height > 0 && shape.width > 0, op, ": height and width of ", name,
                  " must be positive, but it has shape ", sizes_to_string(x));
  return shape;
}

inline Tensor empty_images(const Tensor& like, Shape shape, Layout layout) {
  const auto [b, h, w, c] = shape;
  const std::array<int64_t, 4> nhwc{b, h, w, c}, nchw{b, c, h, w};
  const auto& sizes = layout == Layout::kNhwc ? nhwc : nchw;
  return torch::stable::new_empty(like, {sizes.data(), sizes.size()});
}

// What RoIAlign goes from and to, checked.
struct RegionShapes {
  RoiGrid grid;
  Layout layout;
  Shape features, result;

  RegionShapes(const char* op, const Tensor& x, const Tensor& boxes, int64_t output_height,
               int64_t output_width, double scale, int64_t sampling_ratio, bool channels_last)
      : grid{output_height, output_width, scale, sampling_ratio},
        layout(layout_of(channels_last)),
        features(check_features(op, "x", x, layout)),
        result{check_rois(op, boxes, x, grid), output_height, output_width, features.channels} {}

  static RegionShapes of_gradient(const char* op, const Tensor& grad_y, const Tensor& boxes,
                                  int64_t batch, int64_t height, int64_t width, double scale,
                                  int64_t sampling_ratio, bool channels_last) {
    const Layout layout = layout_of(channels_last);
    const Shape result = check_features(op, "grad_y", grad_y, layout);
    const RoiGrid grid{result.height, result.width, scale, sampling_ratio};
    const int64_t k = check_rois(op, boxes, grad_y, grid);
    STD_TORCH_CHECK(result.batch == k, op, ": grad_y must have a row for each of the ", k,
                    " boxes, but it has shape ", sizes_to_string(grad_y));
    STD_TORCH_CHECK(batch >= 0 && height > 0 && width > 0, op,
                    ": the features must have positive height and width, but they have ", height,
                    " and ", width);
    return {grid, layout, {batch, height, width, result.channels}, result};
  }

 private:
  RegionShapes(RoiGrid grid, Layout layout, Shape features, Shape result)
      : grid(grid), layout(layout), features(features), result(result) {}
};

}  // namespace rsvheat
