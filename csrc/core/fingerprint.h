// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "export.h"
#include "types.h"

namespace rsvheat {

// A number that tells whether memory still holds the same bytes; no protection against intent.
// Bytes that differ in one aligned word of 32 bits always give another number, others but for a
// chance of 2^-32 at most. The number does not depend on threads or on the instruction set.
//
// `data` may have any alignment, and is only read. It may be null for 0 bytes. Thread-safe unless
// another thread writes to the bytes.
RSVHEAT_API uint64_t fingerprint_cpu(const void* data, size_t bytes, const ParallelFor& parallel);

}  // namespace rsvheat
