// SPDX-License-Identifier: Apache-2.0
// Unnormalised DCT-II, DCT-III and DCT-IV of fixed small length on an array of registers.
//
// Even lengths use the orthogonal factorisations (stable: butterflies and rotations only; Lee's
// recursion divides by cosines near zero). With M = N / 2 and P = M / 2:
//   DCT-II_N:  even outputs DCT-II_M(x[i] + x[N-1-i]), odd outputs DCT-IV_M(x[i] - x[N-1-i])
//   DCT-III_N: the transposed flow graph
//   DCT-IV_M:  with t = pi (2 i + 1) / (4 M), a[i] = x[i] cos t + x[M-1-i] sin t and
//              b[i] = (-1)^i (x[M-1-i] cos t - x[i] sin t), A = DCT-II_P(a), B = DCT-II_P(b):
//              X[0] = A[0], X[2j] = A[j] + B[P-j], X[2j-1] = A[j] - B[P-j], X[M-1] = -B[0]
// Odd lengths multiply by the even and odd halves of the matrix.

// cos(pi * numerator / denominator), at compile time.
constexpr long double cos_pi(long long numerator, long long denominator) {
  numerator %= 2 * denominator;
  if (numerator < 0) numerator += 2 * denominator;
  if (numerator > denominator) numerator = 2 * denominator - numerator;
  const bool negate = 2 * numerator > denominator;
  if (negate) numerator = denominator - numerator;
  const long double x = 3.141592653589793238462643383279502884L * numerator / denominator;
  long double term = 1, sum = 1;
  for (int i = 1; i < 20; ++i) {
    term *= -x * x / ((2 * i - 1) * (2 * i));
    sum += term;
  }
  return negate ? -sum : sum;
}

template <int N>
struct OddDct4 {
  OddDct4Entry entries[N];
  constexpr OddDct4() : entries{} { make_odd_dct4(N, entries); }
};
template <int N>
inline constexpr OddDct4<N> kOddDct4{};

// cos(pi a / (4 N)) for a in [0, 8 N): every coefficient of the transforms of length N.
template <class T, int N>
struct Cosines {
  T values[8 * N];
  constexpr Cosines() : values{} {
    for (int a = 0; a < 8 * N; ++a) values[a] = static_cast<T>(cos_pi(a, 4 * N));
  }
};
template <class T, int N>
inline constexpr Cosines<T, N> kCosines{};

template <class T, int N>
RSVHEAT_INLINE constexpr T cosine(int a) {
  return kCosines<T, N>.values[a % (8 * N)];
}

template <class T, int N>
struct Codelet {
  using V = Vec<T>;
  static constexpr int M = N / 2;

  RSVHEAT_INLINE static void dct2(V* x) {
    if constexpr (N == 1) {
    } else if constexpr (N % 2 == 0) {
      V sum[M], difference[M];
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        sum[i] = x[i] + x[N - 1 - i];
        difference[i] = x[i] - x[N - 1 - i];
      }
      Codelet<T, M>::dct2(sum);
      Codelet<T, M>::dct4(difference);
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        x[2 * i] = sum[i];
        x[2 * i + 1] = difference[i];
      }
    } else {
      V sum[M], difference[M];
      const V middle = x[M];
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        sum[i] = x[i] + x[N - 1 - i];
        difference[i] = x[i] - x[N - 1 - i];
      }
      V total = middle;
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) total += sum[i];
      x[0] = total;
      RSVHEAT_UNROLL
      for (int j = 1; j <= M; ++j) {
        V even = j % 2 == 0 ? middle : -middle;
        RSVHEAT_UNROLL
        for (int i = 0; i < M; ++i) even += sum[i] * cosine<T, N>(2 * (2 * i + 1) * (2 * j));
        x[2 * j] = even;
      }
      RSVHEAT_UNROLL
      for (int j = 0; j < M; ++j) {
        V odd = difference[0] * cosine<T, N>(2 * (2 * j + 1));
        RSVHEAT_UNROLL
        for (int i = 1; i < M; ++i) {
          odd += difference[i] * cosine<T, N>(2 * (2 * i + 1) * (2 * j + 1));
        }
        x[2 * j + 1] = odd;
      }
    }
  }

  RSVHEAT_INLINE static void dct3(V* x) {
    if constexpr (N == 1) {
    } else {
      V even[M], odd[M];
      V middle{};
      if constexpr (N % 2 == 0) {
        RSVHEAT_UNROLL
        for (int i = 0; i < M; ++i) {
          even[i] = x[2 * i];
          odd[i] = x[2 * i + 1];
        }
        Codelet<T, M>::dct3(even);
        Codelet<T, M>::dct4(odd);
      } else {
        middle = x[0];
        RSVHEAT_UNROLL
        for (int j = 1; j <= M; ++j) middle = j % 2 == 0 ? middle + x[2 * j] : middle - x[2 * j];
        RSVHEAT_UNROLL
        for (int i = 0; i < M; ++i) {
          even[i] = x[0];
          RSVHEAT_UNROLL
          for (int j = 1; j <= M; ++j) {
            even[i] += x[2 * j] * cosine<T, N>(2 * (2 * i + 1) * (2 * j));
          }
          odd[i] = x[1] * cosine<T, N>(2 * (2 * i + 1));
          RSVHEAT_UNROLL
          for (int j = 1; j < M; ++j) {
            odd[i] += x[2 * j + 1] * cosine<T, N>(2 * (2 * i + 1) * (2 * j + 1));
          }
        }
      }
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        x[i] = even[i] + odd[i];
        x[N - 1 - i] = even[i] - odd[i];
      }
      if constexpr (N % 2 == 1) x[M] = middle;
    }
  }

  RSVHEAT_INLINE static void dct4(V* x) {
    if constexpr (N == 1) {
      x[0] *= cosine<T, 1>(1);
    } else if constexpr (N % 2 == 0) {
      V a[M], b[M];
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        const T c = cosine<T, N>(2 * i + 1), s = cosine<T, N>(2 * N - (2 * i + 1));
        a[i] = x[i] * c + x[N - 1 - i] * s;
        b[i] = i % 2 == 0 ? x[N - 1 - i] * c - x[i] * s : x[i] * s - x[N - 1 - i] * c;
      }
      Codelet<T, M>::dct2(a);
      Codelet<T, M>::dct2(b);
      x[0] = a[0];
      x[N - 1] = -b[0];
      RSVHEAT_UNROLL
      for (int j = 1; j < M; ++j) {
        x[2 * j] = a[j] + b[M - j];
        x[2 * j - 1] = a[j] - b[M - j];
      }
    } else if constexpr (N <= 5) {  // the dense product is as cheap
      V y[N];
      RSVHEAT_UNROLL
      for (int k = 0; k < N; ++k) {
        y[k] = x[0] * cosine<T, N>(2 * k + 1);
        RSVHEAT_UNROLL
        for (int i = 1; i < N; ++i) y[k] += x[i] * cosine<T, N>((2 * i + 1) * (2 * k + 1));
      }
      RSVHEAT_UNROLL
      for (int k = 0; k < N; ++k) x[k] = y[k];
    } else {
      constexpr T kHalfRoot = cosine<T, 1>(1);
      V z[N];
      RSVHEAT_UNROLL
      for (int i = 0; i < N; ++i) {
        const V source = x[kOddDct4<N>.entries[i].source];
        z[i] = kOddDct4<N>.entries[i].source_sign > 0 ? source : -source;
      }
      dct2(z);
      RSVHEAT_UNROLL
      for (int k = 0; k < N; ++k) {
        const OddDct4Entry& e = kOddDct4<N>.entries[k];
        const V c = z[e.cosine] * (e.cosine_sign > 0 ? kHalfRoot : -kHalfRoot);
        if (e.sine_sign == 0) {
          x[k] = c;
        } else {
          x[k] = c + z[e.sine] * (e.sine_sign > 0 ? kHalfRoot : -kHalfRoot);
        }
      }
    }
  }
};

// The three transforms of one length from memory to memory; strides in elements of T. In and out
// may be the same line.
template <class T>
using Transform = void (*)(const T* in, int64_t in_stride, T* out, int64_t out_stride);

template <class T, int N, void (*kTransform)(Vec<T>*)>
void codelet(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  Vec<T> x[N];
  RSVHEAT_UNROLL
  for (int i = 0; i < N; ++i) x[i] = load(in + i * in_stride);
  kTransform(x);
  RSVHEAT_UNROLL
  for (int i = 0; i < N; ++i) store(out + i * out_stride, x[i]);
}

template <class T>
struct CodeletTable {
  Transform<T> dct2[kMaxCodelet + 1], dct3[kMaxCodelet + 1], dct4[kMaxCodelet + 1];

  template <int... kN>
  constexpr explicit CodeletTable(std::integer_sequence<int, kN...>)
      : dct2{nullptr, codelet<T, kN + 1, Codelet<T, kN + 1>::dct2>...},
        dct3{nullptr, codelet<T, kN + 1, Codelet<T, kN + 1>::dct3>...},
        dct4{nullptr, codelet<T, kN + 1, Codelet<T, kN + 1>::dct4>...} {}
};
template <class T>
inline constexpr CodeletTable<T> kCodelets{std::make_integer_sequence<int, kMaxCodelet>{}};
