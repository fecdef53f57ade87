// SPDX-License-Identifier: Apache-2.0
// Calls of the emulated CUDA operators as tests make them.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <utility>

#include "../support.h"
#include "core/cuda/dct.h"
#include "core/cuda/frequency_split.h"
#include "core/cuda/heat_conduction.h"
#include "core/cuda/spectral_l1.h"
#include "emulation.h"

namespace rsvheat::testing {

inline void expect_ok(const Status& status) {
  EXPECT_TRUE(status.ok()) << status.what << ": " << status.detail;
}

// Device memory of exactly `bytes` bytes, full of NaNs.
class Workspace {
 public:
  explicit Workspace(size_t bytes)
      : data_(static_cast<unsigned char*>(operator new(bytes, kAlignment))) {
    std::memset(data_.get(), 0xff, bytes);
  }
  void* data() { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{256};
  struct Delete {
    void operator()(unsigned char* data) const { operator delete(data, kAlignment); }
  };
  std::unique_ptr<unsigned char, Delete> data_;
};

// Asks for the workspace with `query(&bytes)`, then calls `run(workspace)`.
template <typename Query, typename Run>
void call(const Query& query, const Run& run) {
  size_t bytes = 0;
  expect_ok(query(&bytes));
  Workspace workspace(bytes);
  expect_ok(run(workspace.data()));
}

inline Array dct2d(const Array& x, Shape shape, Layout layout, bool inverse) {
  Array y(x.dtype(), count(shape));
  call(
      [&](size_t* bytes) { return dct2d_cuda_workspace(shape, x.dtype(), layout, nullptr, bytes); },
      [&](void* workspace) {
        return dct2d_cuda(x.data(), y.data(), x.dtype(), shape, layout, inverse, workspace,
                          nullptr);
      });
  return y;
}

inline Array heat_conduction(const Array& x, Coefficients coefficients, Conduction kind,
                             Shape shape) {
  Array y(x.dtype(), count(shape));
  call(
      [&](size_t* bytes) {
        return heat_conduction_cuda_workspace(shape, x.dtype(), nullptr, bytes);
      },
      [&](void* workspace) {
        return heat_conduction_cuda(x.data(), coefficients, kind, y.data(), x.dtype(), shape,
                                    workspace, nullptr);
      });
  return y;
}

// Shared memory of the pretended device for the life of this object.
class SharedMemoryLimit {
 public:
  explicit SharedMemoryLimit(int bytes) : saved_(emulation::device) {
    emulation::device.shared_per_block = bytes;
    emulation::device.shared_per_multiprocessor = bytes + 1024;
  }
  ~SharedMemoryLimit() {
    emulation::device.shared_per_block = saved_.shared_per_block;
    emulation::device.shared_per_multiprocessor = saved_.shared_per_multiprocessor;
  }

 private:
  emulation::Device saved_;
};

}  // namespace rsvheat::testing
