// SPDX-License-Identifier: Apache-2.0
// The heat conduction operator (HCO): idct2d(dct2d(x) * filter), filter = exp(-k * |omega|^2),
// omega = (n * pi / H, m * pi / W), on NHWC tensors with coefficients shared by the batch.
#pragma once

#include "export.h"
#include "types.h"

namespace rsvheat {

// What `coefficients` holds.
enum class Conduction : int {
  // k; the filter exp(-k * |omega|^2) is formed on the fly. For an infinite k it is the limit: 1 at
  // omega = 0, else 0.
  kDiffusivity = 0,
  kFilter = 1,  // the filter itself, prepared once for inference
};

// y = HCO(x). x and y are dense NHWC and may be the same pointer.
// Returns false if a diffusivity was negative or NaN (y is then unspecified but fully written);
// always true for kFilter. Memory and thread-safety as for dct2d_cpu; the work space is below 6 MiB
// a thread for any extent. In 16 bits, planes that exceed the cache take one more of float32 that
// the threads share: of two registers of channels, or of more up to 8 MiB.
RSVHEAT_API bool heat_conduction_cpu(const void* x, Coefficients coefficients, Conduction kind,
                                     void* y, DType dtype, Shape shape,
                                     const ParallelFor& parallel);

// Gradients of y = HCO(x): grad_x = HCO(grad_y), and grad_coefficients[h, w, c] =
//   d filter / d coefficient * sum over the batch of dct2d(x) * dct2d(grad_y).
// grad_x (x's dtype) or grad_coefficients (dense (height, width, channels), float32 or float64 like
// the coefficients) may be null when not needed; x may be null when grad_coefficients is.
// The batch is summed in index order, so the result does not depend on the number of threads. Work
// space as above; beyond the cache it takes a shared plane for each of: grad_x in 16 bits or null,
// and grad_coefficients of more than one image.
RSVHEAT_API void heat_conduction_backward_cpu(const void* grad_y, const void* x,
                                              Coefficients coefficients, Conduction kind,
                                              void* grad_x, void* grad_coefficients, DType dtype,
                                              Shape shape, const ParallelFor& parallel);

}  // namespace rsvheat
