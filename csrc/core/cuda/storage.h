// SPDX-License-Identifier: Apache-2.0
// Reading and writing operands of any storage type from kernels that compute in Acc. The storage
// type is a uniform run-time choice, so the (large) transform code is compiled once, not per type.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../types.h"
#include "platform.h"

namespace rsvheat::cuda {

RSVHEAT_DEVICE float to_float(float value) { return value; }
RSVHEAT_DEVICE float to_float(__half value) { return __half2float(value); }
RSVHEAT_DEVICE float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
RSVHEAT_DEVICE void assign(float& to, float value) { to = value; }
RSVHEAT_DEVICE void assign(__half& to, float value) { to = __float2half_rn(value); }
RSVHEAT_DEVICE void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }
RSVHEAT_DEVICE double to_float(double value) { return value; }
RSVHEAT_DEVICE void assign(double& to, double value) { to = value; }

// body(pointer) with `data` cast to a pointer to its element type. float64 goes with Acc = double
// only, the others with Acc = float only.
template <typename Acc, typename Body>
RSVHEAT_DEVICE void visit_storage(const void* data, DType type, const Body& body) {
  if constexpr (sizeof(Acc) == sizeof(double)) {
    body(static_cast<const double*>(data));
  } else {
    switch (type) {
      case DType::kBFloat16:
        body(static_cast<const __nv_bfloat16*>(data));
        break;
      case DType::kFloat16:
        body(static_cast<const __half*>(data));
        break;
      default:
        body(static_cast<const float*>(data));
    }
  }
}
template <typename Acc, typename Body>
RSVHEAT_DEVICE void visit_storage(void* data, DType type, const Body& body) {
  if constexpr (sizeof(Acc) == sizeof(double)) {
    body(static_cast<double*>(data));
  } else {
    switch (type) {
      case DType::kBFloat16:
        body(static_cast<__nv_bfloat16*>(data));
        break;
      case DType::kFloat16:
        body(static_cast<__half*>(data));
        break;
      default:
        body(static_cast<float*>(data));
    }
  }
}

// body(pointer) with `data` cast to a pointer to its element type, of which the size is known.
template <int Bytes, typename Body>
RSVHEAT_DEVICE void visit_elements(void* data, DType type, const Body& body) {
  if constexpr (Bytes == sizeof(float)) {
    body(static_cast<float*>(data));
  } else if (type == DType::kBFloat16) {
    body(static_cast<__nv_bfloat16*>(data));
  } else {
    body(static_cast<__half*>(data));
  }
}

template <typename Acc>
RSVHEAT_DEVICE Acc load(const void* data, DType type, int64_t index) {
  Acc value;
  visit_storage<Acc>(data, type, [&](auto* typed) { value = to_float(typed[index]); });
  return value;
}
template <typename Acc>
RSVHEAT_DEVICE void store(void* data, DType type, int64_t index, Acc value) {
  visit_storage<Acc>(data, type, [&](auto* typed) { assign(typed[index], value); });
}

// The n-th element after `first`, of those that are `pitch` apart: one multiplication of 32 bits.
template <typename S>
RSVHEAT_DEVICE S* point_of(S* first, unsigned n, unsigned pitch) {
  using Byte = std::conditional_t<std::is_const_v<S>, const unsigned char, unsigned char>;
  const unsigned bytes = pitch * unsigned(sizeof(S));
  return reinterpret_cast<S*>(reinterpret_cast<Byte*>(first) + uint64_t(n) * bytes);
}

// v[i] = data[first + i * stride], i < N, and back; the type is looked at once.
template <int N, typename Acc>
RSVHEAT_DEVICE void load_line(const void* data, DType type, int64_t first, int64_t stride, Acc* v) {
  visit_storage<Acc>(data, type, [&](auto* typed) {
    typed += first;
    RSVHEAT_UNROLL
    for (int i = 0; i < N; ++i) v[i] = to_float(typed[i * stride]);
  });
}
template <int N, typename Acc>
RSVHEAT_DEVICE void store_line(void* data, DType type, int64_t first, int64_t stride,
                               const Acc* v) {
  visit_storage<Acc>(data, type, [&](auto* typed) {
    typed += first;
    RSVHEAT_UNROLL
    for (int i = 0; i < N; ++i) assign(typed[i * stride], v[i]);
  });
}

}  // namespace rsvheat::cuda
