// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "export.h"
#include "types.h"

namespace rsvheat {

// Channels that a linear layer has to be a multiple of.
inline constexpr int64_t kLinearBlock = 32;

// Whether this build, this CPU and the capability in use have products of bfloat16 (AVX512_BF16).
RSVHEAT_API bool lowered_linear_available();

// y = x w^T + b, or its GELU, of rows of bfloat16 and a weight in float32, which is rounded to
// bfloat16 within the product: 32 rows of it at a time, so that nothing but the weight is read from
// memory and no copy of it is kept. Sums are float32.
//
// `x` is (rows, inputs) and `y` (rows, outputs), bfloat16; `weight` is (outputs, inputs) and `bias`
// (outputs) or null, float32; all dense, of any alignment, and `y` apart from the others. inputs
// and outputs are multiples of kLinearBlock. Thread-safe. To be called where
// lowered_linear_available().
RSVHEAT_API void lowered_linear_cpu(const void* x, const float* weight, const float* bias,
                                    bool gelu, void* y, int64_t rows, int64_t inputs,
                                    int64_t outputs, const ParallelFor& parallel);

}  // namespace rsvheat
