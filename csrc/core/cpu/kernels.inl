// SPDX-License-Identifier: Apache-2.0
// All CPU kernels, compiled once per instruction set: kernels_*.cpp define RSVHEAT_ISA (a
// namespace), RSVHEAT_VECTOR_BYTES and RSVHEAT_KERNELS and include this file. Everything here lives
// in that namespace and nothing here calls the C++ library.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "jobs.h"
#include "odd_dct4.h"
#include "plan.h"

#define RSVHEAT_INLINE inline __attribute__((always_inline))
#define RSVHEAT_INLINE_LAMBDA __attribute__((always_inline))
#if defined(__clang__)
#define RSVHEAT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RSVHEAT_UNROLL _Pragma("GCC unroll 64")
#endif

namespace rsvheat {
namespace RSVHEAT_ISA {
namespace {

// Later files build on earlier ones.
// clang-format off
#include "simd.inl"
#include "codelets.inl"
#include "transform.inl"
#include "items.inl"
#include "nhwc.inl"
#include "strips.inl"
#include "nchw.inl"
#include "dct.inl"
#include "heat_conduction_strips.inl"
#include "heat_conduction.inl"
#include "frequency_split.inl"
#include "spectral_l1.inl"
#include "layer_norm.inl"
#include "spatial_correction.inl"
// clang-format on

}  // namespace
}  // namespace RSVHEAT_ISA

#define RSVHEAT_ALL_DTYPES(kernel)                          \
  {RSVHEAT_ISA::kernel<float>, RSVHEAT_ISA::kernel<double>, \
   RSVHEAT_ISA::kernel<RSVHEAT_ISA::BFloat16>, RSVHEAT_ISA::kernel<RSVHEAT_ISA::Float16>}

const Kernels RSVHEAT_KERNELS = {
    RSVHEAT_VECTOR_BYTES,
    RSVHEAT_ALL_DTYPES(dct2d_nhwc),
    RSVHEAT_ALL_DTYPES(dct2d_nchw),
    RSVHEAT_ALL_DTYPES(heat_conduction),
    RSVHEAT_ALL_DTYPES(heat_conduction_backward),
    RSVHEAT_ALL_DTYPES(frequency_split),
    RSVHEAT_ALL_DTYPES(spectral_l1),
    RSVHEAT_ALL_DTYPES(layer_norm),
    RSVHEAT_ALL_DTYPES(layer_norm_backward),
    RSVHEAT_ALL_DTYPES(spatial_correction_conv),
    RSVHEAT_ALL_DTYPES(spatial_correction_conv_backward),
};

}  // namespace rsvheat
