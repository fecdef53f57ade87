// SPDX-License-Identifier: Apache-2.0
#include "plan_cache.h"

#include <algorithm>
#include <iterator>
#include <list>

#include "../plan_cache_registry.h"

namespace rsvheat::cuda {
namespace {

const char* describe(cufftResult result) {
  switch (int(result)) {
    case 1:
      return "cuFFT: invalid plan";
    case 2:
      return "cuFFT: out of memory";
    case 4:
      return "cuFFT: invalid value";
    case 5:
      return "cuFFT: internal error";
    case 6:
      return "cuFFT: execution failed";
    case 7:
      return "cuFFT: setup failed";
    case 8:
      return "cuFFT: invalid size";
    default:
      return "cuFFT: error";
  }
}

Status check(cufftResult result, const char* what) {
  return result == CUFFT_SUCCESS ? Status{} : Status{what, describe(result)};
}

struct Cache {
  struct Entry {
    FftKey key;
    std::shared_ptr<FftPlan> plan;
    bool pinned = false;  // a captured graph reads the plan's tables
  };
  std::mutex mutex;
  std::list<Entry> entries;  // most recently used first
};

// Never destroyed: at process exit the driver may be gone before the plans.
Cache& cache() {
  static Cache* const instance = new Cache;
  return *instance;
}

// Plans are made and destroyed, which allocates and frees, while another thread may be capturing:
// that is no concern of its graph.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Drops the least recently used plan that is not pinned, if there are too many of those.
void make_room(std::list<Cache::Entry>* entries, std::list<Cache::Entry>* dropped) {
  const auto unpinned = [](const Cache::Entry& entry) { return !entry.pinned; };
  if (size_t(std::count_if(entries->begin(), entries->end(), unpinned)) <= kPlanCacheCapacity)
    return;
  const auto oldest = std::find_if(entries->rbegin(), entries->rend(), unpinned);
  dropped->splice(dropped->begin(), *entries, std::prev(oldest.base()));
}

}  // namespace

Status FftPlan::create(const FftKey& key) {
  const RelaxedCapture relaxed;
  key_ = key;
  RSVHEAT_RETURN_IF_ERROR(check(cufftCreate(&handle_), "creating a plan"));
  created_ = true;
  RSVHEAT_RETURN_IF_ERROR(check(cufftSetAutoAllocation(handle_, 0), "creating a plan"));
  const int half = key.width / 2 + 1;
  int sizes[2] = {key.height, key.width};
  int real[2] = {key.height, 2 * half}, complex[2] = {key.height, half};
  const int rank = key.height == 1 ? 1 : 2, skip = 2 - rank;
  const int real_distance = key.height * 2 * half, complex_distance = key.height * half;
  const cufftType type = key.double_precision ? (key.inverse ? CUFFT_Z2D : CUFFT_D2Z)
                                              : (key.inverse ? CUFFT_C2R : CUFFT_R2C);
  return check(
      key.inverse
          ? cufftMakePlanMany(handle_, rank, sizes + skip, complex + skip, 1, complex_distance,
                              real + skip, 1, real_distance, type, key.batch, &work_bytes_)
          : cufftMakePlanMany(handle_, rank, sizes + skip, real + skip, 1, real_distance,
                              complex + skip, 1, complex_distance, type, key.batch, &work_bytes_),
      "creating a plan");
}

FftPlan::~FftPlan() {
  if (!created_) return;
  const RelaxedCapture relaxed;
  int current = 0;
  if (cudaGetDevice(&current) != cudaSuccess) return;  // the driver is gone, and the plan with it
  if (current != key_.device) cudaSetDevice(key_.device);
  cufftDestroy(handle_);
  if (current != key_.device) cudaSetDevice(current);
}

Status FftPlan::run(void* data, void* work, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  RSVHEAT_RETURN_IF_ERROR(check(cufftSetStream(handle_, stream), "transform"));
  if (work_bytes_) RSVHEAT_RETURN_IF_ERROR(check(cufftSetWorkArea(handle_, work), "transform"));
  auto* single_real = static_cast<cufftReal*>(data);
  auto* single_complex = static_cast<cufftComplex*>(data);
  auto* double_real = static_cast<cufftDoubleReal*>(data);
  auto* double_complex = static_cast<cufftDoubleComplex*>(data);
  const cufftResult result =
      key_.double_precision ? (key_.inverse ? cufftExecZ2D(handle_, double_complex, double_real)
                                            : cufftExecD2Z(handle_, double_real, double_complex))
                            : (key_.inverse ? cufftExecC2R(handle_, single_complex, single_real)
                                            : cufftExecR2C(handle_, single_real, single_complex));
  return check(result, "transform");
}

Status find_fft_plan(const FftKey& key, cudaStream_t stream, std::shared_ptr<FftPlan>* plan) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  RSVHEAT_RETURN_IF_ERROR(check(cudaStreamIsCapturing(stream, &capture), "capture status"));
  const bool capturing = capture != cudaStreamCaptureStatusNone;
  Cache& c = cache();
  std::list<Cache::Entry> dropped;  // outlives the lock: destroying a plan takes long
  const std::lock_guard lock(c.mutex);
  for (auto entry = c.entries.begin(); entry != c.entries.end(); ++entry) {
    if (entry->key == key) {
      c.entries.splice(c.entries.begin(), c.entries, entry);
      entry->pinned = entry->pinned || capturing;
      *plan = entry->plan;
      return {};
    }
  }
  if (capturing)
    return {"transform in a CUDA graph capture",
            "cuFFT has no plan for this shape yet: run the operator once before the capture"};
  auto made = std::make_shared<FftPlan>();
  RSVHEAT_RETURN_IF_ERROR(made->create(key));
  c.entries.push_front({key, made});
  make_room(&c.entries, &dropped);
  *plan = std::move(made);
  return {};
}

size_t fft_plan_count() {
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  return c.entries.size();
}

size_t pinned_fft_plan_count() {
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  return size_t(std::count_if(c.entries.begin(), c.entries.end(),
                              [](const Cache::Entry& entry) { return entry.pinned; }));
}

void clear_fft_plans() {
  Cache& c = cache();
  std::list<Cache::Entry> dropped;
  const std::lock_guard lock(c.mutex);
  dropped.splice(dropped.begin(), c.entries);
  for (auto entry = dropped.begin(); entry != dropped.end();) {
    const auto next = std::next(entry);
    if (entry->pinned) c.entries.splice(c.entries.end(), dropped, entry);
    entry = next;
  }
}

namespace {

// Loading the library makes the cache known to rsvheat._native.
constexpr CudaPlanCache kRegistered{&fft_plan_count, [] { return kPlanCacheCapacity; },
                                    &clear_fft_plans};
[[maybe_unused]] const bool registered = (register_cuda_plan_cache(&kRegistered), true);

}  // namespace

}  // namespace rsvheat::cuda
