// SPDX-License-Identifier: Apache-2.0
// The only place where the kernels meet the CUDA toolkit. Under RSVHEAT_CUDA_EMULATION the same
// kernels are compiled as host C++ against tests/cpp/cuda_emulation/emulation.h, which needs no
// toolkit: so kernels use launch(), RSVHEAT_DYNAMIC_SHARED, block-wide barriers and, of what a warp
// offers, group_sum() and warp_sync() alone.
#pragma once

#include <cstdint>
#include <tuple>

#include "status.h"

#if defined(RSVHEAT_CUDA_EMULATION)

#include "emulation.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cufft.h>

#define RSVHEAT_DEVICE __device__ __forceinline__
#define RSVHEAT_UNROLL _Pragma("unroll")
#define RSVHEAT_PRAGMA(text) _Pragma(#text)
#define RSVHEAT_UNROLL_BY(times) RSVHEAT_PRAGMA(unroll(times))
#define RSVHEAT_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace rsvheat::cuda {

// Threads of a block whose size is free, and the rows of a 32-wide transposing block. The emulation
// starts one host thread for each, so it has smaller ones.
inline constexpr int kMaxThreads = 256;
inline constexpr int kTransposeRows = 8;

// An intermediate that one kernel writes and the next reads is cut to this size, so that it stays
// in the level-2 cache (40 to 50 MiB on the A100 and H100).
inline constexpr int64_t kCacheBytes = 32 << 20;

// Multiprocessors that work is cut for: an H100's. On others the cut, and so the results, are the
// same.
inline constexpr int kMultiprocessors = 132;

// Blocks of kernels that loop over their work: two for each multiprocessor.
inline constexpr int kPersistentBlocks = 264;

// Lanes of a line kernel (line_kernel.h).
inline constexpr int kLineLanes = 32;

// Threads of a block for which the GPU has that many.
__host__ __device__ constexpr int block_size(int threads) { return threads; }

// Orders the accesses to shared memory of a warp's lanes. All of them have to call it.
RSVHEAT_DEVICE void warp_sync() { __syncwarp(); }

// 2^x. A float32 result below the smallest normal number becomes zero, which saves the GPU three of
// four instructions.
RSVHEAT_DEVICE double power_of_two(double x) { return exp2(x); }
RSVHEAT_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Sum over groups of `lanes` neighbours of a warp, a power of two; the same bits in each of them.
// All lanes of the warp have to call it.
template <typename T>
RSVHEAT_DEVICE T group_sum(T value, int lanes) {
  for (int other = lanes / 2; other > 0; other /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, other);
  return value;
}

inline Status check(cudaError_t error, const char* what) {
  return error == cudaSuccess ? Status{} : Status{what, cudaGetErrorString(error)};
}

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...), opting in to large shared memory.
// Its status is that of this launch: cudaGetLastError() may hold the error of another library.
template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              cudaStream_t stream, const Arguments&... arguments) {
  constexpr size_t kDefaultSharedLimit = 48 * 1024, kLittleShared = 8 * 1024;
  if (shared_bytes > kDefaultSharedLimit) {
    const Status status =
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   int(shared_bytes)),
              "shared memory limit");
    if (!status.ok()) return status;
  }
  if (shared_bytes > kLittleShared) {
    // As many blocks a multiprocessor as the kernels count on need all of what it can have.
    const Status status =
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared),
              "shared memory carve-out");
    if (!status.ok()) return status;
  }
  std::tuple<Parameters...> values{Parameters(arguments)...};
  const cudaError_t error = std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)...};
        return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers,
                                shared_bytes, stream);
      },
      values);
  if (error != cudaSuccess) (void)cudaGetLastError();  // reported here, not to whoever asks next
  return check(error, "kernel launch");
}

}  // namespace rsvheat::cuda

#endif
