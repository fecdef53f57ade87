// SPDX-License-Identifier: Apache-2.0
#define RSVHEAT_ISA avx2
#define RSVHEAT_VECTOR_BYTES 32
#define RSVHEAT_BOX_KERNELS kBoxKernelsAvx2
#include "boxes_kernels.inl"
