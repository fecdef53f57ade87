// SPDX-License-Identifier: Apache-2.0
#include "../fingerprint.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dispatch.h"

namespace rsvheat {
namespace {

// Bytes that one thread reads at a time; part of the definition of the number.
constexpr size_t kChunk = size_t{256} << 10;
// Lanes are independent, so that the latency of a multiplication is hidden.
constexpr int kLanes = 64;
constexpr size_t kBlock = kLanes * sizeof(uint32_t);

constexpr uint64_t combine(uint64_t hash, uint64_t part) {
  hash = (hash ^ part) * 0xD6E8FEB86659FD93u;
  return hash ^ (hash >> 32);
}

// Each step is a bijection of the lane for a given word, and of the word for a given lane, so that
// one changed word always shows. The rotation carries high bits down: without it two flipped signs
// would cancel.
[[gnu::always_inline]] inline uint64_t digest(const std::byte* data, size_t bytes) {
  uint32_t lanes[kLanes];
  uint32_t words[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = 0x9E3779B9u * (lane + 1);
  for (size_t begin = 0; begin < bytes; begin += kBlock) {
    const size_t count = bytes - begin;
    if (count >= kBlock) {
      std::memcpy(words, data + begin, kBlock);
    } else {
      std::memset(words, 0, kBlock);
      std::memcpy(words, data + begin, count);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t mixed = (lanes[lane] ^ words[lane]) * 0x9E3779B1u;
      lanes[lane] = (mixed << 15) | (mixed >> 17);
    }
  }
  uint64_t hash = bytes;
  for (const uint32_t lane : lanes) hash = combine(hash, lane);
  return hash;
}

uint64_t digest_generic(const std::byte* data, size_t bytes) { return digest(data, bytes); }

// Not in the files of an instruction set: it has no plans, types or work space, only this loop.
#if defined(RSVHEAT_X86_KERNELS)
[[gnu::target("avx2")]] uint64_t digest_avx2(const std::byte* data, size_t bytes) {
  return digest(data, bytes);
}
[[gnu::target("avx512f,prefer-vector-width=512")]] uint64_t digest_avx512(const std::byte* data,
                                                                          size_t bytes) {
  return digest(data, bytes);
}
#endif

using Digest = uint64_t (*)(const std::byte*, size_t);

Digest best_digest() {
  switch (cpu_capability()) {
#if defined(RSVHEAT_X86_KERNELS)
    case CpuCapability::kAvx512:
      return digest_avx512;
    case CpuCapability::kAvx2:
      return digest_avx2;
#endif
    default:
      return digest_generic;
  }
}

}  // namespace

uint64_t fingerprint_cpu(const void* data, size_t bytes, const ParallelFor& parallel) {
  struct Job {
    const std::byte* data;
    size_t bytes;
    Digest digest;
    uint64_t* digests;
  };
  const size_t chunks = (bytes + kChunk - 1) / kChunk;
  // Most weights of small models are one chunk, for which nothing is allocated.
  uint64_t one = 0;
  std::vector<uint64_t> many(chunks > 1 ? chunks : 0);
  Job job{static_cast<const std::byte*>(data), bytes, best_digest(),
          chunks > 1 ? many.data() : &one};
  const auto body = [](void* context, int64_t begin, int64_t end) {
    const Job& job = *static_cast<const Job*>(context);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const size_t offset = chunk * kChunk;
      job.digests[chunk] = job.digest(job.data + offset, std::min(kChunk, job.bytes - offset));
    }
  };
  if (chunks == 1 || parallel.num_threads == 1) {
    body(&job, 0, static_cast<int64_t>(chunks));
  } else if (chunks > 1) {
    parallel.run(static_cast<int64_t>(chunks), body, &job);
  }
  uint64_t hash = bytes;
  for (size_t chunk = 0; chunk < chunks; ++chunk) hash = combine(hash, job.digests[chunk]);
  return hash;
}

}  // namespace rsvheat
