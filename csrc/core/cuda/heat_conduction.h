// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../heat_conduction.h. Every pointer is device memory of the current device;
// work is enqueued on `stream`, in whose order the operands must be ready. Operands are dense NHWC,
// aligned to their element, and must not overlap. `workspace` is 256-byte aligned device memory of
// the size that the *_workspace function says for the same arguments; that call also creates any
// cuFFT plan needed, which is what makes a later call capturable in a CUDA graph. Results do not
// depend on the stream or on timing. Thread-safe. A negative or NaN diffusivity is not detected
// (that would synchronize): it yields growing or NaN values.
#pragma once

#include <cstddef>

#include "../heat_conduction.h"
#include "status.h"

namespace rsvheat {

Status heat_conduction_cuda_workspace(Shape shape, DType dtype, cudaStream_t stream, size_t* bytes);
Status heat_conduction_cuda(const void* x, Coefficients coefficients, Conduction kind, void* y,
                            DType dtype, Shape shape, void* workspace, cudaStream_t stream);

// As heat_conduction_backward_cpu; the batch is summed in an order that depends on the shape, on
// whether the operands allow accesses of 16 bytes, and on what shared memory a block can have, on
// nothing else of the device. grad_x may be null.
bool heat_conduction_vectors(const void* grad_y, const void* x, Coefficients coefficients,
                             const void* grad_x);
// `vectors` is what heat_conduction_vectors says of the operands of the call.
Status heat_conduction_backward_cuda_workspace(Shape shape, DType dtype, bool need_coefficients,
                                               bool vectors, cudaStream_t stream, size_t* bytes);
Status heat_conduction_backward_cuda(const void* grad_y, const void* x, Coefficients coefficients,
                                     Conduction kind, void* grad_x, void* grad_coefficients,
                                     DType dtype, Shape shape, void* workspace,
                                     cudaStream_t stream);

}  // namespace rsvheat
