// SPDX-License-Identifier: Apache-2.0
// cuFFT plans, kept because making one takes milliseconds and allocates, which a CUDA graph capture
// does not allow. The least recently used goes when the cache is full. A captured graph reads the
// tables of its plans at each replay, and does not tell when it ends: a plan that was used during a
// capture stays until the process ends, and does not count against the capacity.
#pragma once

#include <compare>
#include <memory>
#include <mutex>

#include "platform.h"

namespace rsvheat::cuda {

inline constexpr size_t kPlanCacheCapacity = 64;

// A batch of real transforms of (height, width) planes, in place on rows padded to width / 2 + 1
// complex numbers. height = 1 makes a one-dimensional plan.
struct FftKey {
  int device, height, width, batch;
  bool double_precision, inverse;
  auto operator<=>(const FftKey&) const = default;
};

class FftPlan {
 public:
  ~FftPlan();
  size_t work_bytes() const { return work_bytes_; }
  // Enqueues the transform of `data`. `work` is device memory of work_bytes(), 256-byte aligned.
  Status run(void* data, void* work, cudaStream_t stream);

 private:
  friend Status find_fft_plan(const FftKey&, cudaStream_t, std::shared_ptr<FftPlan>*);
  Status create(const FftKey& key);

  FftKey key_{};
  cufftHandle handle_{};
  bool created_ = false;
  size_t work_bytes_ = 0;
  std::mutex mutex_;  // stream and work area are the handle's state
};

// The plan for `key`, made if need be; an error if that is while `stream` is being captured.
Status find_fft_plan(const FftKey& key, cudaStream_t stream, std::shared_ptr<FftPlan>* plan);

size_t fft_plan_count();

// Of them, those that stay.
size_t pinned_fft_plan_count();

// Plans in use live until their call ends, pinned ones stay.
void clear_fft_plans();

}  // namespace rsvheat::cuda
