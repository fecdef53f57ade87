// SPDX-License-Identifier: Apache-2.0
// A linear layer of bfloat16 rows whose weight is float32. A file of its own, since few CPUs with
// AVX-512 have products of bfloat16. As in kernels.inl everything lives in the namespace of the
// instruction set, and nothing here calls the C++ library.

#include <cstddef>
#include <cstdint>
#include <utility>

#include <immintrin.h>

#include "linear_jobs.h"

#define RSVHEAT_ISA avx512bf16
#define RSVHEAT_VECTOR_BYTES 64
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

#include "simd.inl"

constexpr int kColumns = 32;  // output channels of a panel, in two registers
constexpr int kRows = 12;     // rows at a time: 24 of the 32 registers are sums
constexpr int kPairs = 8;     // pairs of inputs between two times of prefetching
constexpr int64_t kLine = 64;

// Rounds 32 rows of a weight and stores them as (inputs / 2, 32, 2).
void pack(const float* weight, int64_t inputs, uint32_t* panel) {
  for (int half = 0; half < kColumns; half += 16) {
    for (int64_t k = 0; k < inputs; k += 32) {
      UInt32s r[16];
      RSVHEAT_UNROLL
      for (int i = 0; i < 16; ++i) {
        const float* p = weight + (half + i) * inputs + k;
        r[i] = bit_cast<UInt32s>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p)));
      }
      transpose<uint32_t>(r);
      RSVHEAT_UNROLL
      for (int i = 0; i < 16; ++i) {
        store(panel + (k / 2 + i) * kColumns + half, r[i]);
      }
    }
  }
}

// x * (1 + erf(x / sqrt(2))) / 2. For z >= 0 erfc(z) = exp(-z^2) * p(1 / (1 + 0.3275911 z)) to
// 1.5e-7 (Abramowitz and Stegun, 7.1.26), far below the rounding of the result.
RSVHEAT_INLINE Float32s gelu(Float32s x) {
  const Float32s z = (x < 0.0f ? -x : x) * 0x1.6a09e6p-1f;
  const Float32s t = 1.0f / (1.0f + 0.3275911f * z);
  Float32s p = 1.061405429f * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Float32s erfc = p * t * exp_nonpositive(-z * z);
  return 0.5f * x * (x < 0.0f ? erfc : 2.0f - erfc);
}

// The next panel's weights, which are fetched into the L2 cache while this one is multiplied.
struct Prefetch {
  const char* next;
  const char* end;
  int lines;  // at a time
};

template <int kCount>
void multiply(const LinearJob& job, const uint16_t* x, const uint32_t* panel, int64_t column,
              uint16_t* y, Prefetch& prefetch) {
  __m512 sums[kCount][2];
  __m512 bias[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  if (job.bias) {
    for (int i = 0; i < 2; ++i) bias[i] = _mm512_loadu_ps(job.bias + column + 16 * i);
  }
  RSVHEAT_UNROLL
  for (int row = 0; row < kCount; ++row) {
    for (int i = 0; i < 2; ++i) sums[row][i] = bias[i];
  }
  // Addresses of every third row: with one of each the registers would not do.
  const char* thirds[(kCount + 2) / 3];
  const int64_t stride = job.inputs * static_cast<int64_t>(sizeof(uint16_t));
  for (int i = 0; i < (kCount + 2) / 3; ++i) {
    thirds[i] = reinterpret_cast<const char*>(x) + 3 * i * stride;
  }
  for (int64_t k = 0; k < job.inputs; k += 2 * kPairs) {
    for (int i = 0; i < prefetch.lines && prefetch.next < prefetch.end; ++i) {
      _mm_prefetch(prefetch.next, _MM_HINT_T1);
      prefetch.next += kLine;
    }
    RSVHEAT_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      __m512bh w[2];
      for (int i = 0; i < 2; ++i) {
        w[i] = bit_cast<__m512bh>(_mm512_load_si512(panel + pair * kColumns + 16 * i));
      }
      RSVHEAT_UNROLL
      for (int row = 0; row < kCount; ++row) {
        int32_t two;
        __builtin_memcpy(&two, thirds[row / 3] + row % 3 * stride + 4 * pair, sizeof(two));
        const __m512bh both = bit_cast<__m512bh>(_mm512_set1_epi32(two));
        for (int i = 0; i < 2; ++i) sums[row][i] = _mm512_dpbf16_ps(sums[row][i], w[i], both);
      }
    }
    panel += kPairs * kColumns;
    for (auto& third : thirds) third += 4 * kPairs;
  }
  RSVHEAT_UNROLL
  for (int row = 0; row < kCount; ++row) {
    if (job.gelu) {
      for (int i = 0; i < 2; ++i) {
        sums[row][i] = bit_cast<__m512>(gelu(bit_cast<Float32s>(sums[row][i])));
      }
    }
    _mm512_storeu_si512(y + row * job.outputs + column,
                        bit_cast<__m512i>(_mm512_cvtne2ps_pbh(sums[row][1], sums[row][0])));
  }
}

using Multiply = void (*)(const LinearJob&, const uint16_t*, const uint32_t*, int64_t, uint16_t*,
                          Prefetch&);
constexpr Multiply kMultiply[kRows] = {multiply<1>, multiply<2>,  multiply<3>,  multiply<4>,
                                       multiply<5>, multiply<6>,  multiply<7>,  multiply<8>,
                                       multiply<9>, multiply<10>, multiply<11>, multiply<12>};

}  // namespace
}  // namespace RSVHEAT_ISA

void lowered_linear_avx512bf16(const LinearJob& job, std::byte* panel, int64_t first_block,
                               int64_t end_block, int64_t first_row, int64_t end_row) {
  using namespace RSVHEAT_ISA;
  auto* pairs = reinterpret_cast<uint32_t*>(panel);
  const int64_t rows = end_row - first_row, groups = (rows + kRows - 1) / kRows;
  for (int64_t block = first_block; block < end_block; ++block) {
    const float* weight = job.weight + block * kColumns * job.inputs;
    pack(weight, job.inputs, pairs);
    const auto* next = reinterpret_cast<const char*>(weight + kColumns * job.inputs);
    const int64_t bytes = block + 1 < end_block ? kColumns * job.inputs * sizeof(float) : 0;
    // All of the next panel, in equal parts, by the last group.
    const int64_t times = groups * (job.inputs / (2 * kPairs));
    const int64_t lines = (bytes / kLine + times - 1) / times;
    Prefetch prefetch{next, next + bytes, static_cast<int>(lines)};
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t row = first_row + group * rows / groups;
      const int64_t count = first_row + (group + 1) * rows / groups - row;
      kMultiply[count - 1](job, job.x + row * job.inputs, pairs, block * kColumns,
                           job.y + row * job.outputs, prefetch);
    }
  }
}

}  // namespace rsvheat
