// SPDX-License-Identifier: Apache-2.0
// The CPU kernels on rotated boxes, compiled once per instruction set like kernels.inl and under
// the same rules: boxes_kernels_*.cpp define RSVHEAT_ISA, RSVHEAT_VECTOR_BYTES and
// RSVHEAT_BOX_KERNELS. A file of its own because it is compiled without contraction
// (boxes_math.inl).

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "boxes_jobs.h"

#define RSVHEAT_INLINE inline __attribute__((always_inline))
#define RSVHEAT_INLINE_LAMBDA __attribute__((always_inline))
#if defined(__clang__)
#define RSVHEAT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RSVHEAT_UNROLL _Pragma("GCC unroll 64")
#endif
#define RSVHEAT_MATH RSVHEAT_INLINE

namespace rsvheat {
namespace RSVHEAT_ISA {
namespace {

#include "simd.inl"

using Doubles = Vec<double>;

// Bit i: the comparison holds in lane i.
RSVHEAT_INLINE unsigned lane_bits(Mask<double> mask) {
#if RSVHEAT_VECTOR_BYTES == 64
  return _mm512_movepi64_mask(bit_cast<__m512i>(mask));
#elif RSVHEAT_VECTOR_BYTES == 32
  return static_cast<unsigned>(_mm256_movemask_pd(bit_cast<__m256d>(mask)));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes<double>; ++i) bits |= mask[i] ? 1u << i : 0u;
  return bits;
#endif
}
inline constexpr unsigned kAllLanes = (1u << kLanes<double>)-1;

RSVHEAT_INLINE bool any_lane(Mask<double> mask) { return lane_bits(mask) != 0; }

RSVHEAT_INLINE Doubles product_error(Doubles a, Doubles b, Doubles product) {
#if RSVHEAT_VECTOR_BYTES == 64
  return _mm512_fmsub_pd(a, b, product);
#elif RSVHEAT_VECTOR_BYTES == 32
  return _mm256_fmsub_pd(a, b, product);
#else
  // Dekker: halves of 26 bits, whose products are exact.
  constexpr double kSplit = 134217729.0;  // 2^27 + 1
  const Doubles scaled_a = a * kSplit, scaled_b = b * kSplit;
  const Doubles high_a = scaled_a - (scaled_a - a), high_b = scaled_b - (scaled_b - b);
  const Doubles low_a = a - high_a, low_b = b - high_b;
  return ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b;
#endif
}

// a * b + c. What uses it is not held to the same bits on every instruction set.
template <class T>
RSVHEAT_INLINE Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> c) {
#if RSVHEAT_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 8) {
    return _mm512_fmadd_pd(a, b, c);
  } else {
    return _mm512_fmadd_ps(a, b, c);
  }
#elif RSVHEAT_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 8) {
    return _mm256_fmadd_pd(a, b, c);
  } else {
    return _mm256_fmadd_ps(a, b, c);
  }
#else
  return a * b + c;
#endif
}

// clang-format off
#include "../boxes_math.inl"
#include "../roi_align_math.inl"
#include "box_iou.inl"
#include "box_nms.inl"
#include "roi_align.inl"
// clang-format on

}  // namespace
}  // namespace RSVHEAT_ISA

#define RSVHEAT_BOX_DTYPES(kernel) {RSVHEAT_ISA::kernel<float>, RSVHEAT_ISA::kernel<double>}

const BoxKernels RSVHEAT_BOX_KERNELS = {
    RSVHEAT_VECTOR_BYTES,
    RSVHEAT_BOX_DTYPES(prepare_boxes),
    RSVHEAT_BOX_DTYPES(iou_matrix),
    RSVHEAT_BOX_DTYPES(iou_aligned),
    RSVHEAT_BOX_DTYPES(iou_backward),
    RSVHEAT_BOX_DTYPES(nms_against_kept),
    RSVHEAT_BOX_DTYPES(nms_within_block),
    {RSVHEAT_ISA::kRoiAlign<float>, RSVHEAT_ISA::kRoiAlign<double>,
     RSVHEAT_ISA::kRoiAlign<RSVHEAT_ISA::BFloat16>, RSVHEAT_ISA::kRoiAlign<RSVHEAT_ISA::Float16>},
};

}  // namespace rsvheat
