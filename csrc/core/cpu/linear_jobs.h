// SPDX-License-Identifier: Apache-2.0
// What the entry point of the lowered linear layer hands to its kernel.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsvheat {

struct LinearJob {
  const uint16_t* x;
  const float* weight;
  const float* bias;  // may be null
  bool gelu;
  uint16_t* y;
  int64_t rows, inputs, outputs;
};

// Computes a range of 32 output channels each for a range of rows. `panel` is work space of
// 64 * inputs bytes, aligned to a cache line.
void lowered_linear_avx512bf16(const LinearJob& job, std::byte* panel, int64_t first_block,
                               int64_t end_block, int64_t first_row, int64_t end_row);

}  // namespace rsvheat
