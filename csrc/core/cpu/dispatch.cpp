// SPDX-License-Identifier: Apache-2.0
#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "jobs.h"

namespace rsvheat {
namespace {

const Kernels* kernels_of(CpuCapability capability) {
  switch (capability) {
#if defined(RSVHEAT_X86_KERNELS)
    case CpuCapability::kAvx512:
      return &kKernelsAvx512;
    case CpuCapability::kAvx2:
      return &kKernelsAvx2;
#endif
    default:
      return &kKernelsGeneric;
  }
}

constexpr const char* kNames[] = {"generic", "avx2", "avx512"};

CpuCapability best_capability() {
  for (auto capability : {CpuCapability::kAvx512, CpuCapability::kAvx2}) {
    if (cpu_capability_available(capability)) return capability;
  }
  return CpuCapability::kGeneric;
}

struct Choice {
  std::atomic<CpuCapability> capability;
  std::string warning;

  Choice() : capability(best_capability()) {
    const char* requested = std::getenv("RSVHEAT_CPU_CAPABILITY");
    if (!requested || !*requested) return;
    CpuCapability wanted;
    if (!parse_cpu_capability(requested, &wanted)) {
      warning = std::string("RSVHEAT_CPU_CAPABILITY=") + requested +
                " is unknown; expected generic, avx2 or avx512";
    } else if (!cpu_capability_available(wanted)) {
      warning = std::string("RSVHEAT_CPU_CAPABILITY=") + requested +
                " is not available in this build or on this CPU";
    } else {
      capability = wanted;
    }
  }
};

Choice& choice() {
  static Choice instance;
  return instance;
}

}  // namespace

const Kernels& kernels() { return *kernels_of(cpu_capability()); }

CpuCapability cpu_capability() { return choice().capability.load(std::memory_order_relaxed); }

bool cpu_capability_available(CpuCapability capability) {
#if defined(RSVHEAT_X86_KERNELS)
  switch (capability) {
    case CpuCapability::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case CpuCapability::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    default:
      return true;
  }
#else
  return capability == CpuCapability::kGeneric;
#endif
}

bool set_cpu_capability(CpuCapability capability) {
  if (!cpu_capability_available(capability)) return false;
  choice().capability = capability;
  return true;
}

const char* cpu_capability_name(CpuCapability capability) {
  return kNames[static_cast<int>(capability)];
}

bool parse_cpu_capability(const char* name, CpuCapability* capability) {
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kNames[i]) == 0) {
      *capability = static_cast<CpuCapability>(i);
      return true;
    }
  }
  return false;
}

const char* cpu_capability_warning() {
  return choice().warning.empty() ? nullptr : choice().warning.c_str();
}

}  // namespace rsvheat
