// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "export.h"
#include "layer_norm.h"
#include "types.h"

namespace rsvheat {

// What is done to features before heat is conducted:
//   y = depthwise_3x3(norm(relu(x + embed))) + conv_bias, with zeros around the norm's output.
// embed: (H, W, C); conv_weight: (C, 3, 3); conv_bias: (C,); all in the type of the norm's
// parameters.
struct CorrectionParameters {
  const void* embed;
  NormParameters norm;
  const void *conv_weight, *conv_bias;
};

// x and y: dense NHWC of `dtype`, not overlapping. Thread-safety as for dct2d_cpu.
RSVHEAT_API void spatial_correction_conv_cpu(const void* x, CorrectionParameters parameters,
                                             void* y, DType dtype, Shape shape,
                                             const ParallelFor& parallel);

// Gradients, each of the shape of what it belongs to. No sum's order depends on the number of
// threads.
struct CorrectionGradients {
  void *x, *embed, *norm_weight, *norm_bias, *conv_weight, *conv_bias;
};
RSVHEAT_API void spatial_correction_conv_backward_cpu(const void* grad_y, const void* x,
                                                      CorrectionParameters parameters,
                                                      CorrectionGradients gradients, DType dtype,
                                                      Shape shape, const ParallelFor& parallel);

}  // namespace rsvheat
