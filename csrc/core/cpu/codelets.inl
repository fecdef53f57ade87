// SPDX-License-Identifier: Apache-2.0
// Unnormalized DCT-II, DCT-III and DCT-IV of fixed small length on an array of registers.
//
// Even lengths use the orthogonal factorisations (stable: butterflies and rotations only; Lee's
// recursion divides by cosines near zero). With M = N / 2 and P = M / 2:
//   DCT-II_N:  even outputs DCT-II_M(x[i] + x[N-1-i]), odd outputs DCT-IV_M(x[i] - x[N-1-i])
//   DCT-III_N: the transposed flow graph
//   DCT-IV_M:  with t = pi (2 i + 1) / (4 M), a[i] = x[i] cos t + x[M-1-i] sin t and
//              b[i] = (-1)^i (x[M-1-i] cos t - x[i] sin t), A = DCT-II_P(a), B = DCT-II_P(b):
//              X[0] = A[0], X[2j] = A[j] + B[P-j], X[2j-1] = A[j] - B[P-j], X[M-1] = -B[0]
// An odd length is a real DFT of that length between signed permutations (odd_dct4.h), which
// factors when the length does.

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

// The real DFT of odd length N, C[j] = sum_m x[m] cos(2 pi j m / N) and S[j] the same with sines,
// j = 0 .. N / 2 (S[0] is not used), and its transpose. Composite lengths N = P Q go by
// m = Q a + b, j = j1 + P j2: P-point DFTs over a, rotations by 2 pi b j1 / N, Q-point DFTs over b.
constexpr int smallest_factor(int n) {
  for (int p = 3; p * p <= n; p += 2) {
    if (n % p == 0) return p;
  }
  return n;
}

template <class T, int N, int P = smallest_factor(N)>
struct RealDft {
  using V = Vec<T>;
  static constexpr int kHalf = N / 2, Q = N / P, kHalfP = P / 2, kHalfQ = Q / 2;

  RSVHEAT_INLINE static constexpr T turn_cos(int p) { return cosine<T, N>(8 * (p % N)); }
  RSVHEAT_INLINE static constexpr T turn_sin(int p) { return cosine<T, N>(8 * (p % N) + 6 * N); }

  RSVHEAT_INLINE static void forward(const V* x, V* c, V* s) {
    V cosines[Q][kHalfP + 1], sines[Q][kHalfP + 1];
    RSVHEAT_UNROLL
    for (int b = 0; b < Q; ++b) {
      V column[P];
      RSVHEAT_UNROLL
      for (int a = 0; a < P; ++a) column[a] = x[Q * a + b];
      RealDft<T, P>::forward(column, cosines[b], sines[b]);
    }
    RSVHEAT_UNROLL
    for (int j1 = 0; j1 <= kHalfP; ++j1) {
      V u[Q], v[Q], cu[kHalfQ + 1], su[kHalfQ + 1], cv[kHalfQ + 1], sv[kHalfQ + 1];
      RSVHEAT_UNROLL
      for (int b = 0; b < Q; ++b) {
        if (j1 == 0 || b == 0) {
          u[b] = cosines[b][j1];
          v[b] = sines[b][j1];
        } else {
          const T rc = turn_cos(b * j1), rs = turn_sin(b * j1);
          u[b] = cosines[b][j1] * rc - sines[b][j1] * rs;
          v[b] = sines[b][j1] * rc + cosines[b][j1] * rs;
        }
      }
      RealDft<T, Q>::forward(u, cu, su);
      if (j1 == 0) {
        RSVHEAT_UNROLL
        for (int j2 = 0; j2 <= kHalfQ; ++j2) put(P * j2, cu[j2], su[j2], c, s);
        continue;
      }
      RealDft<T, Q>::forward(v, cv, sv);
      put(j1, cu[0], cv[0], c, s);
      RSVHEAT_UNROLL
      for (int j2 = 1; j2 <= kHalfQ; ++j2) {
        put(j1 + P * j2, cu[j2] - sv[j2], cv[j2] + su[j2], c, s);
        put(j1 + P * (Q - j2), cu[j2] + sv[j2], cv[j2] - su[j2], c, s);
      }
    }
  }

  RSVHEAT_INLINE static void transposed(const V* c, const V* s, V* x) {
    V cosines[Q][kHalfP + 1], sines[Q][kHalfP + 1];
    RSVHEAT_UNROLL
    for (int j1 = 0; j1 <= kHalfP; ++j1) {
      V u[Q], v[Q], cu[kHalfQ + 1], su[kHalfQ + 1], cv[kHalfQ + 1], sv[kHalfQ + 1];
      if (j1 == 0) {
        RSVHEAT_UNROLL
        for (int j2 = 0; j2 <= kHalfQ; ++j2) get(P * j2, c, s, &cu[j2], &su[j2]);
      } else {
        get(j1, c, s, &cu[0], &cv[0]);
        RSVHEAT_UNROLL
        for (int j2 = 1; j2 <= kHalfQ; ++j2) {
          V c0, s0, c1, s1;
          get(j1 + P * j2, c, s, &c0, &s0);
          get(j1 + P * (Q - j2), c, s, &c1, &s1);
          cu[j2] = c0 + c1;
          sv[j2] = c1 - c0;
          cv[j2] = s0 + s1;
          su[j2] = s0 - s1;
        }
        RealDft<T, Q>::transposed(cv, sv, v);
      }
      RealDft<T, Q>::transposed(cu, su, u);
      RSVHEAT_UNROLL
      for (int b = 0; b < Q; ++b) {
        if (j1 == 0) {
          cosines[b][0] = u[b];
        } else if (b == 0) {
          cosines[b][j1] = u[b];
          sines[b][j1] = v[b];
        } else {
          const T rc = turn_cos(b * j1), rs = turn_sin(b * j1);
          cosines[b][j1] = u[b] * rc + v[b] * rs;
          sines[b][j1] = v[b] * rc - u[b] * rs;
        }
      }
    }
    RSVHEAT_UNROLL
    for (int b = 0; b < Q; ++b) {
      V column[P];
      RealDft<T, P>::transposed(cosines[b], sines[b], column);
      RSVHEAT_UNROLL
      for (int a = 0; a < P; ++a) x[Q * a + b] = column[a];
    }
  }

 private:
  // C and S at j in [0, N): beyond N / 2 they are those of N - j, S negated.
  RSVHEAT_INLINE static void put(int j, V cj, V sj, V* c, V* s) {
    if (j <= kHalf) {
      c[j] = cj;
      if (j > 0) s[j] = sj;
    } else {
      c[N - j] = cj;
      s[N - j] = -sj;
    }
  }
  RSVHEAT_INLINE static void get(int j, const V* c, const V* s, V* cj, V* sj) {
    if (j <= kHalf) {
      *cj = c[j];
      if (j > 0) *sj = s[j];
    } else {
      *cj = c[N - j];
      *sj = -s[N - j];
    }
  }
};

// Prime lengths: the products with the halves of the matrix.
template <class T, int N>
struct RealDft<T, N, N> {
  using V = Vec<T>;
  static constexpr int kHalf = N / 2;

  RSVHEAT_INLINE static void forward(const V* x, V* c, V* s) {
    V sum[kHalf + 1], difference[kHalf + 1];
    V total = x[0];
    RSVHEAT_UNROLL
    for (int a = 1; a <= kHalf; ++a) {
      sum[a] = x[a] + x[N - a];
      difference[a] = x[a] - x[N - a];
      total += sum[a];
    }
    c[0] = total;
    RSVHEAT_UNROLL
    for (int j = 1; j <= kHalf; ++j) {
      c[j] = x[0];
      s[j] = difference[1] * cosine<T, N>(8 * j + 6 * N);
      RSVHEAT_UNROLL
      for (int a = 1; a <= kHalf; ++a) c[j] += sum[a] * cosine<T, N>(8 * (j * a % N));
      RSVHEAT_UNROLL
      for (int a = 2; a <= kHalf; ++a)
        s[j] += difference[a] * cosine<T, N>(8 * (j * a % N) + 6 * N);
    }
  }

  RSVHEAT_INLINE static void transposed(const V* c, const V* s, V* x) {
    V total = c[0];
    RSVHEAT_UNROLL
    for (int j = 1; j <= kHalf; ++j) total += c[j];
    RSVHEAT_UNROLL
    for (int a = 1; a <= kHalf; ++a) {
      V even = c[0], odd = s[1] * cosine<T, N>(8 * a + 6 * N);
      RSVHEAT_UNROLL
      for (int j = 1; j <= kHalf; ++j) even += c[j] * cosine<T, N>(8 * (j * a % N));
      RSVHEAT_UNROLL
      for (int j = 2; j <= kHalf; ++j) odd += s[j] * cosine<T, N>(8 * (j * a % N) + 6 * N);
      x[a] = even + odd;
      x[N - a] = even - odd;
    }
    x[0] = total;
  }
};

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
      V signal[N], c[M + 1], s[M + 1];
      RSVHEAT_UNROLL
      for (int i = 0; i < N; ++i) signal[odd_dct2_position(N, i)] = x[i];
      RealDft<T, N>::forward(signal, c, s);
      RSVHEAT_UNROLL
      for (int k = 0; k < N; ++k) {
        const V value = k % 2 == 0 ? c[k <= M ? k : N - k] : s[k <= M ? k : N - k];
        x[k] = odd_dct2_sign(N, k) > 0 ? value : -value;
      }
    }
  }

  RSVHEAT_INLINE static void dct3(V* x) {
    if constexpr (N == 1) {
    } else if constexpr (N % 2 == 0) {
      V even[M], odd[M];
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        even[i] = x[2 * i];
        odd[i] = x[2 * i + 1];
      }
      Codelet<T, M>::dct3(even);
      Codelet<T, M>::dct4(odd);
      RSVHEAT_UNROLL
      for (int i = 0; i < M; ++i) {
        x[i] = even[i] + odd[i];
        x[N - 1 - i] = even[i] - odd[i];
      }
    } else {
      V signal[N], c[M + 1], s[M + 1];
      RSVHEAT_UNROLL
      for (int k = 0; k < N; ++k) {
        const V value = odd_dct2_sign(N, k) > 0 ? x[k] : -x[k];
        (k % 2 == 0 ? c : s)[k <= M ? k : N - k] = value;
      }
      RealDft<T, N>::transposed(c, s, signal);
      RSVHEAT_UNROLL
      for (int i = 0; i < N; ++i) x[i] = signal[odd_dct2_position(N, i)];
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
