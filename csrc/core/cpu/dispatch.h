// SPDX-License-Identifier: Apache-2.0
// Chooses, once per process, which instruction set the CPU kernels run with.
#pragma once

#include "../export.h"

namespace rsvheat {

enum class CpuCapability : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2 };

// The capability in use: the best one that this build and this CPU have, or what
// RSVHEAT_CPU_CAPABILITY=generic|avx2|avx512 asked for when the library was first used.
RSVHEAT_API CpuCapability cpu_capability();

// Whether this build and this CPU can run `capability`.
RSVHEAT_API bool cpu_capability_available(CpuCapability capability);

// Overrides the choice for later calls; false, and no change, if it is not available.
RSVHEAT_API bool set_cpu_capability(CpuCapability capability);

// "generic", "avx2", "avx512".
RSVHEAT_API const char* cpu_capability_name(CpuCapability capability);

// Parses a name as above; false if it is not one of them.
RSVHEAT_API bool parse_cpu_capability(const char* name, CpuCapability* capability);

// Non-null if RSVHEAT_CPU_CAPABILITY held something unknown or unavailable (it was then ignored).
RSVHEAT_API const char* cpu_capability_warning();

struct Kernels;
// The kernels of the capability in use.
const Kernels& kernels();

}  // namespace rsvheat
