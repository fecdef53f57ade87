// SPDX-License-Identifier: Apache-2.0
// Device, stream and workspace of a CUDA operator.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>

#include "../checks.h"
#include "core/cuda/status.h"

namespace rsvheat {

inline void check_status(const char* op, const Status& status) {
  STD_TORCH_CHECK(status.ok(), op, ": ", status.what, " failed: ", status.detail);
}

inline cudaStream_t current_stream(const Tensor& like) {
  void* handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(like.get_device_index(), &handle));
  return static_cast<cudaStream_t>(handle);
}

// `Status run(stream)` on the device of `like` and torch's current stream there.
template <class Run>
void run_without_workspace(const char* op, const Tensor& like, const Run& run) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  check_status(op, run(current_stream(like)));
}

// On the device of `like` and torch's current stream there: asks for the workspace's size with
// `Status query(stream, &bytes)`, takes it from torch's allocator, calls `Status run(workspace,
// stream)`. The allocator hands the workspace on in the stream's order only, so it may be given
// back while the kernels still wait.
template <class Query, class Run>
void run_on_device(const char* op, const Tensor& like, const Query& query, const Run& run) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const cudaStream_t stream = current_stream(like);
  size_t bytes = 0;
  check_status(op, query(stream, &bytes));
  const std::array<int64_t, 1> sizes{static_cast<int64_t>(bytes)};
  const Tensor workspace =
      torch::stable::new_empty(like, {sizes.data(), sizes.size()}, ScalarType::Byte);
  check_status(op, run(workspace.mutable_data_ptr(), stream));
}

}  // namespace rsvheat
