// SPDX-License-Identifier: Apache-2.0
// Every op of the namespace. Kernels register themselves for their device; autograd, autocast and
// fake kernels are in rsvheat/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(rsvheat, m) {
  m.def("dct2d(Tensor x, bool channels_last) -> Tensor");
  m.def("idct2d(Tensor x, bool channels_last) -> Tensor");
  m.def("heat_conduction(Tensor x, Tensor k) -> Tensor");
  m.def(
      "_heat_conduction_backward(Tensor grad_y, Tensor x, Tensor k, bool need_x, bool need_k)"
      " -> (Tensor, Tensor)");
  m.def("apply_heat_filter(Tensor x, Tensor filter) -> Tensor");
  m.def(
      "_apply_heat_filter_backward(Tensor grad_y, Tensor x, Tensor filter, bool need_x,"
      " bool need_filter) -> (Tensor, Tensor)");
  m.def("frequency_split(Tensor x, Tensor radius, Tensor angles) -> (Tensor, Tensor)");
  m.def("spectral_l1(Tensor pred, Tensor target, bool with_grad) -> (Tensor, Tensor, Tensor)");
  m.def("gated_layer_norm(Tensor x, Tensor gate, Tensor weight, Tensor bias, float eps) -> Tensor");
  m.def(
      "_gated_layer_norm_backward(Tensor grad_y, Tensor x, Tensor gate, Tensor weight, Tensor bias,"
      " float eps) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "add_layer_norm(Tensor residual, Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor");
  m.def(
      "_add_layer_norm_into(Tensor(a!) residual, Tensor x, Tensor weight, Tensor bias, float eps)"
      " -> ()");
  m.def(
      "_add_layer_norm_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor bias, float eps)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "spatial_correction_conv(Tensor x, Tensor embed, Tensor norm_weight, Tensor norm_bias,"
      " Tensor conv_weight, Tensor conv_bias, float eps) -> Tensor");
  m.def(
      "_spatial_correction_conv_backward(Tensor grad_y, Tensor x, Tensor embed, Tensor norm_weight,"
      " Tensor norm_bias, Tensor conv_weight, Tensor conv_bias, float eps)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("box_iou_rotated(Tensor boxes1, Tensor boxes2, bool aligned) -> Tensor");
  m.def(
      "_box_iou_rotated_backward(Tensor grad, Tensor boxes1, Tensor boxes2, bool aligned)"
      " -> Tensor");
  m.def("nms_rotated(Tensor boxes, Tensor order, Tensor labels, float iou_threshold) -> Tensor");
  m.def(
      "roi_align_rotated(Tensor x, Tensor boxes, int output_height, int output_width,"
      " float spatial_scale, int sampling_ratio, bool channels_last) -> Tensor");
  m.def(
      "_roi_align_rotated_backward(Tensor grad_y, Tensor boxes, SymInt batch, SymInt height,"
      " SymInt width, float spatial_scale, int sampling_ratio, bool channels_last) -> Tensor");
  m.def("_fingerprint(Tensor x) -> int");
  m.def("_lowered_linear(Tensor x, Tensor weight, Tensor? bias, bool gelu) -> Tensor");
  m.def("_lowered_linear_available() -> bool");
}
