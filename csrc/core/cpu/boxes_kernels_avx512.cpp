// SPDX-License-Identifier: Apache-2.0
#define RSVHEAT_ISA avx512
#define RSVHEAT_VECTOR_BYTES 64
#define RSVHEAT_BOX_KERNELS kBoxKernelsAvx512
#include "boxes_kernels.inl"
