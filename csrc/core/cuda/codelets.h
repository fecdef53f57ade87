// SPDX-License-Identifier: Apache-2.0
// Trigonometric transforms of compile-time size on arrays that the compiler keeps in registers; all
// coefficients become immediate operands. Unnormalized, in natural order:
//   dct2: X[k] = sum_n x[n] cos(pi (2n+1) k / (2N))
//   dct3: x[n] = sum_k X[k] cos(pi (2n+1) k / (2N)), the transpose of dct2
//   dct4: Y[k] = sum_n x[n] cos(pi (2n+1) (2k+1) / (4N)), its own transpose
// Every split is a product of additions and rotations (no 1/(2 cos) as in Lee's recursion), so the
// error grows like log N.
#pragma once

#include <cstdint>
#include <type_traits>

#include "platform.h"

namespace rsvheat::cuda {

// cos(pi j / (2 n)) to the last bit or so of a double, at compile time.
__host__ __device__ constexpr double cos_half_pi(int64_t j, int64_t n) {
  j %= 4 * n;
  if (j > 2 * n) j = 4 * n - j;
  const bool negative = j > n;
  if (negative) j = 2 * n - j;
  constexpr double kHalfPi = 1.57079632679489661923;
  // The series of cosine below 45 degrees, of sine above.
  const bool sine = 2 * j > n;
  const double angle = kHalfPi * double(sine ? n - j : j) / double(n);
  double term = sine ? angle : 1.0, sum = term;
  for (int i = sine ? 2 : 1; i < 26; i += 2) {
    term *= -angle * angle / (i * (i + 1));
    sum += term;
  }
  return negative ? -sum : sum;
}

// cos(pi j / (2 N)), j = 0 .. 4N-1.
template <int N>
struct CosineTable {
  float value[4 * N];
  __host__ __device__ constexpr CosineTable() : value{} {
    for (int j = 0; j < 4 * N; ++j) value[j] = float(cos_half_pi(j, N));
  }
};
template <int N>
__device__ constexpr CosineTable<N> kCosines{};

template <int N>
RSVHEAT_DEVICE void dct4(float* v);

template <int N>
RSVHEAT_DEVICE void dct2(float* v) {
  if constexpr (N > 1) {
    constexpr int M = N / 2;
    float s[M], d[M];
    RSVHEAT_UNROLL
    for (int i = 0; i < M; ++i) {
      s[i] = v[i] + v[N - 1 - i];
      d[i] = v[i] - v[N - 1 - i];
    }
    if constexpr (N % 2 == 0) {
      dct2<M>(s);
      dct4<M>(d);
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        v[2 * i] = s[i];
        v[2 * i + 1] = d[i];
      }
    } else {
      const float middle = v[M];
      RSVHEAT_UNROLL
      for (int k = 0; k < N; ++k) {
        float sum = k % 2 ? 0.0f : k % 4 ? -middle : middle;
        RSVHEAT_UNROLL
        for (int i = 0; i < M; ++i)
          sum += (k % 2 ? d[i] : s[i]) * kCosines<N>.value[(2 * i + 1) * k % (4 * N)];
        v[k] = sum;
      }
    }
  }
}

template <int N>
RSVHEAT_DEVICE void dct3(float* v) {
  if constexpr (N > 1) {
    constexpr int M = N / 2;
    float s[M], d[M];
    float middle = 0.0f;
    if constexpr (N % 2 == 0) {
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        s[i] = v[2 * i];
        d[i] = v[2 * i + 1];
      }
      dct3<M>(s);
      dct4<M>(d);
    } else {
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        s[i] = v[0];
        d[i] = 0.0f;
        RSVHEAT_UNROLL
        for (int k = 1; k < N; ++k)
          (k % 2 ? d[i] : s[i]) += v[k] * kCosines<N>.value[(2 * i + 1) * k % (4 * N)];
      }
      RSVHEAT_UNROLL
      for (int k = 0; k < N; k += 2) middle += k % 4 ? -v[k] : v[k];
    }
    RSVHEAT_UNROLL
    for (int i = 0; i < M; ++i) {
      v[i] = s[i] + d[i];
      v[N - 1 - i] = s[i] - d[i];
    }
    if constexpr (N % 2 == 1) v[M] = middle;
  }
}

template <int N>
RSVHEAT_DEVICE void dct4(float* v) {
  if constexpr (N % 2 == 0) {
    constexpr int M = N / 2;
    float a[M], b[M];
    RSVHEAT_UNROLL
    for (int i = 0; i < M; ++i) {
      // theta = pi (2i+1) / (4N) in half-turns of a table for 2N.
      const float cosine = kCosines<2 * N>.value[2 * i + 1];
      const float sine = kCosines<2 * N>.value[2 * N - (2 * i + 1)];
      a[i] = v[i] * cosine + v[N - 1 - i] * sine;
      const float rotated = v[N - 1 - i] * cosine - v[i] * sine;
      b[i] = i % 2 ? -rotated : rotated;
    }
    dct2<M>(a);
    dct2<M>(b);
    v[0] = a[0];
    v[N - 1] = -b[0];
    RSVHEAT_UNROLL
    for (int j = 1; j < M; ++j) {
      v[2 * j] = a[j] + b[M - j];
      v[2 * j - 1] = a[j] - b[M - j];
    }
  } else {
    float result[N];
    RSVHEAT_UNROLL
    for (int k = 0; k < N; ++k) {
      result[k] = 0.0f;
      RSVHEAT_UNROLL
      for (int i = 0; i < N; ++i)
        result[k] += v[i] * kCosines<2 * N>.value[(2 * i + 1) * (2 * k + 1) % (8 * N)];
    }
    RSVHEAT_UNROLL
    for (int k = 0; k < N; ++k) v[k] = result[k];
  }
}

// Compile-time list of sizes. visit() runs body(std::integral_constant<int, size>) for a member, in
// kernels, visit_host() on the host; bodies read decltype(n)::value.
template <int... Sizes>
struct SizeList {
  __host__ __device__ static constexpr bool contains(int64_t size) {
    return ((size == Sizes) || ...);
  }

  template <typename Body>
  RSVHEAT_DEVICE static void visit(int size, const Body& body) {
    ((size == Sizes ? body(std::integral_constant<int, Sizes>{}) : void()), ...);
  }
  template <typename Body>
  static void visit_host(int size, const Body& body) {
    ((size == Sizes ? body(std::integral_constant<int, Sizes>{}) : void()), ...);
  }
};

}  // namespace rsvheat::cuda
