// SPDX-License-Identifier: Apache-2.0
// Just enough CUDA to run csrc/core/cuda as host C++: one host thread per CUDA thread of a block, a
// real barrier for __syncthreads, blocks one after the other, shared memory as an exactly sized
// heap buffer that holds NaNs at each block's start. So AddressSanitizer sees indices out of
// bounds, ThreadSanitizer sees missing barriers, and a test sees what was read before it was
// written. Of what a warp offers there are group_sum() and warp_sync() alone: a warp's threads do
// not run in step here. RSVHEAT_EMULATION_FULL_SIZE gives blocks the GPU's numbers of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

#include "status.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define RSVHEAT_DEVICE inline
#define RSVHEAT_UNROLL
#define RSVHEAT_UNROLL_BY(times)
#define RSVHEAT_DYNAMIC_SHARED(name) unsigned char* name = ::emulation::this_thread.shared

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {

// Settings of the pretended device; tests change them to steer the choice of a path.
struct Device {
  int shared_per_block = 232448, shared_per_multiprocessor = 233472;  // an H100's
  bool capturing = false;
  size_t fft_plans = 0;  // alive
};
inline Device device;

// Index of the __syncthreads call, counted from 0 in each block, that is left out; -1: none. The
// seeded fault that ThreadSanitizer has to report.
inline int dropped_barrier() {
  static const int index = [] {
    const char* text = std::getenv("RSVHEAT_EMULATION_DROP_BARRIER");
    return text ? std::atoi(text) : -1;
  }();
  return index;
}

// It has no lock, for which all woken threads would queue.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int generation = generation_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++generation_;
      generation_.notify_all();
    } else {
      generation_.wait(generation);
    }
  }

 private:
  const int threads_;
  std::atomic<int> waiting_ = 0, generation_ = 0;
};

// A block's barriers take turns: with one only, a thread that wakes up from it would synchronize
// with those already at the next, which hides races from ThreadSanitizer.
struct Barriers {
  Barrier turns[4];
  explicit Barriers(int threads)
      : turns{Barrier(threads), Barrier(threads), Barrier(threads), Barrier(threads)} {}
};

// 32 threads that add up what each has put into its slot.
struct Warp {
  static constexpr int kThreads = 32;
  Barrier arrived, read;
  double slots[kThreads] = {};
  explicit Warp(int threads) : arrived(threads), read(threads) {}
};

// Threads that stay from launch to launch: to start one costs more than most blocks, above all
// under AddressSanitizer, which maps memory for each.
class Threads {
 public:
  // Calls job(index) on `count` threads, and returns when all have ended.
  void run(int count, const std::function<void(int)>& job) {
    const std::lock_guard lock(launch_);
    while (int(workers_.size()) < count) {
      Worker& worker = workers_.emplace_back();
      worker.thread =
          std::thread(&Threads::serve, this, std::ref(worker), int(workers_.size()) - 1);
    }
    job_ = &job;
    running_ = count;
    for (int i = 0; i < count; ++i) workers_[i].begin.release();
    end_.acquire();
  }
  ~Threads() {
    job_ = nullptr;
    for (Worker& worker : workers_) {
      worker.begin.release();
      worker.thread.join();
    }
  }

 private:
  struct Worker {
    std::binary_semaphore begin{0};
    std::thread thread;
  };

  void serve(Worker& worker, int index) {
    for (worker.begin.acquire(); job_; worker.begin.acquire()) {
      (*job_)(index);
      if (--running_ == 0) end_.release();
    }
  }

  std::mutex launch_;
  std::deque<Worker> workers_;
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<int> running_ = 0;
  std::binary_semaphore end_{0};
};
inline Threads& threads_of_blocks() {
  static Threads threads;
  return threads;
}

struct ThisThread {
  unsigned char* shared = nullptr;
  Barriers* barriers = nullptr;
  unsigned turn = 0;      // of all barriers of the launch
  int barriers_left = 0;  // until the one to drop
  Warp* warp = nullptr;
  int lane = 0;
  void wait() { barriers->turns[turn++ % 4].wait(); }
};
inline thread_local ThisThread this_thread;

}  // namespace emulation

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() {
  emulation::ThisThread& thread = emulation::this_thread;
  if (thread.barriers_left-- == 0)
    ++thread.turn;
  else
    thread.wait();
}

// Arithmetic -------------------------------------------------------------------------------------

using std::exp;
using std::exp2;
using std::sqrt;
inline double cospi(double x) {
  x = std::fmod(std::abs(x), 2.0);
  if (x > 1.0) x = 2.0 - x;
  constexpr double kPi = 3.14159265358979323846;
  return x > 0.25 && x < 0.75 ? std::sin(kPi * (0.5 - x)) : std::cos(kPi * x);
}
inline void sincospi(double x, double* sine, double* cosine) {
  *cosine = cospi(x);
  *sine = cospi(x - 0.5);
}
inline void sincospif(float x, float* sine, float* cosine) {
  *cosine = float(cospi(x));
  *sine = float(cospi(double(x) - 0.5));
}

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return {0x7fff};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

struct __half {
  uint16_t bits;
};
inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  const float magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                          : std::ldexp(float(mantissa + 1024), exponent - 25);
  return value.bits >> 15 ? -magnitude : magnitude;
}
inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return {0x7fff};
  const float magnitude = std::abs(value);
  if (magnitude == 0.0f) return {sign};
  if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(magnitude, &exponent);               // magnitude in [2^(exponent-1), 2^exponent)
  const int unit = std::max(exponent - 11, -24);  // of the last place
  const int steps = int(std::nearbyint(std::ldexp(magnitude, -unit)));
  // A carry out of the mantissa runs into the exponent, as it should.
  const int bits = unit == -24 ? steps : ((unit + 24) << 10) + steps;
  return {uint16_t(sign | bits)};
}

// Runtime ----------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed };

namespace emulation {
inline thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(emulation::capture_mode, *mode);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin
               ? emulation::device.shared_per_block
               : emulation::device.shared_per_multiprocessor;
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status =
      emulation::device.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

namespace rsvheat::cuda {

#if defined(RSVHEAT_EMULATION_FULL_SIZE)
inline constexpr int kMaxThreads = 256;
inline constexpr int kTransposeRows = 8;
inline constexpr int64_t kCacheBytes = 32 << 20;
inline constexpr int kMultiprocessors = 132;
inline constexpr int kPersistentBlocks = 264;
inline constexpr int kLineLanes = 32;
constexpr int block_size(int threads) { return threads; }
#else
inline constexpr int kMaxThreads = 32;
inline constexpr int kTransposeRows = 1;
inline constexpr int64_t kCacheBytes = 4096;  // small images, too, come in several steps
inline constexpr int kMultiprocessors = 2;
inline constexpr int kPersistentBlocks = 3;
inline constexpr int kLineLanes = 8;
constexpr int block_size(int) { return kMaxThreads; }
#endif

inline double power_of_two(double x) { return std::exp2(x); }
inline float power_of_two(float x) { return std::exp2(x); }

// Counts as one of the barriers that may be dropped.
inline void warp_sync() {
  emulation::ThisThread& thread = emulation::this_thread;
  if (thread.barriers_left-- != 0) thread.warp->arrived.wait();
}

// In the order in which lanes exchange their sums on a GPU.
template <typename T>
T group_sum(T value, int lanes) {
  emulation::Warp& warp = *emulation::this_thread.warp;
  const int lane = emulation::this_thread.lane;
  warp.slots[lane] = double(value);
  warp.arrived.wait();
  T sums[emulation::Warp::kThreads], next[emulation::Warp::kThreads];
  const int first = lane / lanes * lanes;
  for (int i = 0; i < lanes; ++i) sums[i] = T(warp.slots[first + i]);
  for (int other = lanes / 2; other > 0; other /= 2) {
    for (int i = 0; i < lanes; ++i) next[i] = sums[i] + sums[i ^ other];
    std::copy(next, next + lanes, sums);
  }
  warp.read.wait();
  return sums[lane - first];
}

inline Status check(cudaError_t error, const char* what) {
  return error == cudaSuccess ? Status{} : Status{what, cudaGetErrorString(error)};
}

template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              cudaStream_t, const Arguments&... arguments) {
  if (shared_bytes > size_t(emulation::device.shared_per_block) || grid.x == 0 ||
      grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || block.x * block.y * block.z > 1024)
    return check(cudaErrorInvalidValue, "kernel launch");
  constexpr std::align_val_t kAlignment{16};
  auto* shared = static_cast<unsigned char*>(operator new(shared_bytes, kAlignment));
  const int threads = int(block.x * block.y * block.z);
  emulation::Barriers barriers(threads);
  constexpr int kWarpThreads = emulation::Warp::kThreads;
  std::deque<emulation::Warp> warps;
  for (int first = 0; first < threads; first += kWarpThreads)
    warps.emplace_back(std::min(kWarpThreads, threads - first));
  const auto run = [&](int index) {
    threadIdx = dim3(index % block.x, index / block.x % block.y, index / block.x / block.y);
    blockDim = block;
    gridDim = grid;
    emulation::ThisThread& thread = emulation::this_thread;
    thread = {shared, &barriers};
    thread.warp = &warps[index / kWarpThreads];
    thread.lane = index % kWarpThreads;
    for (unsigned b = 0; b < grid.x * grid.y; ++b) {
      if (index == 0) std::memset(shared, 0xff, shared_bytes);
      thread.wait();
      blockIdx = dim3(b % grid.x, b / grid.x);
      thread.barriers_left = emulation::dropped_barrier();
      kernel(Parameters(arguments)...);
      thread.wait();
    }
  };
  emulation::threads_of_blocks().run(threads, run);
  operator delete(shared, kAlignment);
  return {};
}

}  // namespace rsvheat::cuda

// cuFFT: the calls that the plan cache makes, by the definition
// ------------------------------------

struct cufftComplex {
  float x, y;
};
struct cufftDoubleComplex {
  double x, y;
};
using cufftReal = float;
using cufftDoubleReal = double;
using cufftHandle = int;
enum cufftResult { CUFFT_SUCCESS = 0, CUFFT_INVALID_PLAN = 1, CUFFT_INVALID_VALUE = 4 };
enum cufftType { CUFFT_R2C, CUFFT_C2R, CUFFT_D2Z, CUFFT_Z2D };

namespace emulation {

// Making and destroying plans is a fault unless the thread has said that it concerns no capture.
inline bool may_allocate() { return capture_mode == cudaStreamCaptureModeRelaxed; }

struct FftPlan {
  int height = 1, width = 1, batch = 0, real_row = 0;
  bool double_precision = false, inverse = false;
  unsigned char* work = nullptr;
};
inline constexpr size_t kFftWorkBytes = 128;
inline std::mutex fft_mutex;
inline std::map<cufftHandle, FftPlan>& fft_plan_table() {
  static std::map<cufftHandle, FftPlan> table;
  return table;
}

// In place, on rows padded to width/2 + 1 complex numbers, unnormalized in both directions.
template <typename Real>
void fft(const FftPlan& plan, Real* data) {
  std::memset(plan.work, 0xff, kFftWorkBytes);
  const int height = plan.height, width = plan.width, row = plan.real_row, half = width / 2 + 1;
  constexpr double kTwoPi = 6.28318530717958647693;
  const auto turn = [&](double sign, int64_t product, int size) {
    const double angle = sign * kTwoPi * double(product % size) / size;
    return std::pair{std::cos(angle), std::sin(angle)};
  };
  for (int b = 0; b < plan.batch; ++b, data += int64_t(height) * row) {
    std::vector<double> re(height * half), im(height * half);
    if (!plan.inverse) {
      for (int h = 0; h < height; ++h)
        for (int m = 0; m < half; ++m)
          for (int w = 0; w < width; ++w) {
            const auto [c, s] = turn(-1, int64_t(m) * w, width);
            re[h * half + m] += data[h * row + w] * c;
            im[h * half + m] += data[h * row + w] * s;
          }
    } else {
      for (int h = 0; h < height; ++h)
        for (int m = 0; m < half; ++m) {
          re[h * half + m] = data[h * row + 2 * m];
          im[h * half + m] = data[h * row + 2 * m + 1];
        }
    }
    std::vector<double> re2(height * half), im2(height * half);
    for (int n = 0; n < height; ++n)
      for (int h = 0; h < height; ++h) {
        const auto [c, s] = turn(plan.inverse ? 1 : -1, int64_t(n) * h, height);
        for (int m = 0; m < half; ++m) {
          re2[n * half + m] += re[h * half + m] * c - im[h * half + m] * s;
          im2[n * half + m] += re[h * half + m] * s + im[h * half + m] * c;
        }
      }
    for (int h = 0; h < height; ++h) {
      if (!plan.inverse) {
        for (int m = 0; m < half; ++m) {
          data[h * row + 2 * m] = Real(re2[h * half + m]);
          data[h * row + 2 * m + 1] = Real(im2[h * half + m]);
        }
        continue;
      }
      for (int w = 0; w < width; ++w) {
        double sum = re2[h * half];
        for (int m = 1; m < half; ++m) {
          const auto [c, s] = turn(1, int64_t(m) * w, width);
          const double term = re2[h * half + m] * c - im2[h * half + m] * s;
          sum += 2 * m == width ? term : 2 * term;
        }
        data[h * row + w] = Real(sum);
      }
    }
  }
}

}  // namespace emulation

inline cufftResult cufftCreate(cufftHandle* plan) {
  static int next = 0;
  if (!emulation::may_allocate()) return CUFFT_INVALID_VALUE;
  std::lock_guard lock(emulation::fft_mutex);
  *plan = ++next;
  emulation::fft_plan_table()[*plan] = {};
  ++emulation::device.fft_plans;
  return CUFFT_SUCCESS;
}
inline cufftResult cufftDestroy(cufftHandle plan) {
  if (!emulation::may_allocate()) return CUFFT_INVALID_VALUE;
  std::lock_guard lock(emulation::fft_mutex);
  emulation::device.fft_plans -= emulation::fft_plan_table().erase(plan);
  return CUFFT_SUCCESS;
}
inline cufftResult cufftSetAutoAllocation(cufftHandle, int) { return CUFFT_SUCCESS; }
inline cufftResult cufftMakePlanMany(cufftHandle plan, int rank, int* n, int* inembed, int istride,
                                     int idist, int* onembed, int ostride, int odist,
                                     cufftType type, int batch, size_t* work_size) {
  std::lock_guard lock(emulation::fft_mutex);
  emulation::FftPlan& p = emulation::fft_plan_table().at(plan);
  p.height = rank == 2 ? n[0] : 1;
  p.width = n[rank - 1];
  p.batch = batch;
  p.double_precision = type == CUFFT_D2Z || type == CUFFT_Z2D;
  p.inverse = type == CUFFT_C2R || type == CUFFT_Z2D;
  const int half = p.width / 2 + 1;
  p.real_row = 2 * half;
  // Only the in-place layout is emulated.
  const int* real = p.inverse ? onembed : inembed;
  const int* complex = p.inverse ? inembed : onembed;
  const int real_dist = p.inverse ? odist : idist, complex_dist = p.inverse ? idist : odist;
  if (istride != 1 || ostride != 1 || real[rank - 1] != 2 * half || complex[rank - 1] != half ||
      real_dist != p.height * 2 * half || complex_dist != p.height * half)
    return CUFFT_INVALID_VALUE;
  *work_size = emulation::kFftWorkBytes;
  return CUFFT_SUCCESS;
}
inline cufftResult cufftSetStream(cufftHandle, cudaStream_t) { return CUFFT_SUCCESS; }
inline cufftResult cufftSetWorkArea(cufftHandle plan, void* work) {
  emulation::fft_plan_table().at(plan).work = static_cast<unsigned char*>(work);
  return CUFFT_SUCCESS;
}
inline cufftResult cufftExecR2C(cufftHandle plan, cufftReal* in, cufftComplex*) {
  emulation::fft(emulation::fft_plan_table().at(plan), in);
  return CUFFT_SUCCESS;
}
inline cufftResult cufftExecC2R(cufftHandle plan, cufftComplex*, cufftReal* out) {
  emulation::fft(emulation::fft_plan_table().at(plan), out);
  return CUFFT_SUCCESS;
}
inline cufftResult cufftExecD2Z(cufftHandle plan, cufftDoubleReal* in, cufftDoubleComplex*) {
  emulation::fft(emulation::fft_plan_table().at(plan), in);
  return CUFFT_SUCCESS;
}
inline cufftResult cufftExecZ2D(cufftHandle plan, cufftDoubleComplex*, cufftDoubleReal* out) {
  emulation::fft(emulation::fft_plan_table().at(plan), out);
  return CUFFT_SUCCESS;
}
