// SPDX-License-Identifier: Apache-2.0
#define RSVHEAT_ISA generic
#define RSVHEAT_VECTOR_BYTES 16
#define RSVHEAT_BOX_KERNELS kBoxKernelsGeneric
#include "boxes_kernels.inl"
