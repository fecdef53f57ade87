// SPDX-License-Identifier: Apache-2.0
#pragma once

// CUDA's own declarations, repeated so that callers need no toolkit headers.
struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace rsvheat {

// Outcome of enqueueing work. Both strings have static storage.
struct Status {
  const char* what = nullptr;    // the step that failed; null on success
  const char* detail = nullptr;  // CUDA's or cuFFT's reason, or advice
  bool ok() const { return what == nullptr; }
};

}  // namespace rsvheat

// Leaves the enclosing function on failure.
#define RSVHEAT_RETURN_IF_ERROR(expression)                                            \
  do {                                                                                 \
    if (const ::rsvheat::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)
