// SPDX-License-Identifier: Apache-2.0
// Unnormalized transforms of lines of any length, kLanes independent lines at a time. The
// factorisations are those of codelets.inl, applied in memory until a codelet takes over.
//
// `in` and `out` are lines of registers, strides in elements of T; they may be the same line.
// `work` holds transform_scratch_registers(n) registers (jobs.h) and overlaps neither.

template <class T>
using LineTransform = void (*)(const Plan<T>* plan, int n, const T* in, int64_t in_stride, T* out,
                               int64_t out_stride, T* work);

template <class T>
void dct2_line(const Plan<T>* plan, int n, const T* in, int64_t in_stride, T* out,
               int64_t out_stride, T* work);
template <class T>
void dct3_line(const Plan<T>* plan, int n, const T* in, int64_t in_stride, T* out,
               int64_t out_stride, T* work);

// out[r] = sum_i rows[r][i] * in[i], eight rows at a time.
template <class T>
void multiply_rows(const T* rows, int row_count, int column_count, const T* in, T* out,
                   int64_t out_stride) {
  constexpr int kRows = 8, L = kLanes<T>;
  int r = 0;
  for (; r + kRows <= row_count; r += kRows) {
    Vec<T> sum[kRows] = {};
    const T* row = rows + static_cast<int64_t>(r) * column_count;
    for (int i = 0; i < column_count; ++i) {
      const Vec<T> x = load(in + i * L);
      RSVHEAT_UNROLL
      for (int j = 0; j < kRows; ++j) sum[j] += x * row[static_cast<int64_t>(j) * column_count + i];
    }
    RSVHEAT_UNROLL
    for (int j = 0; j < kRows; ++j) store(out + (r + j) * out_stride, sum[j]);
  }
  for (; r < row_count; ++r) {
    Vec<T> sum{};
    const T* row = rows + static_cast<int64_t>(r) * column_count;
    for (int i = 0; i < column_count; ++i) sum += load(in + i * L) * row[i];
    store(out + r * out_stride, sum);
  }
}

// out[i] = sum_r rows[r][i] * in[r]: the transposed product.
template <class T>
void multiply_columns(const T* rows, int row_count, int column_count, const T* in, T* out) {
  constexpr int kColumns = 8, L = kLanes<T>;
  int c = 0;
  for (; c + kColumns <= column_count; c += kColumns) {
    Vec<T> sum[kColumns] = {};
    for (int r = 0; r < row_count; ++r) {
      const Vec<T> x = load(in + r * L);
      const T* row = rows + static_cast<int64_t>(r) * column_count + c;
      RSVHEAT_UNROLL
      for (int j = 0; j < kColumns; ++j) sum[j] += x * row[j];
    }
    RSVHEAT_UNROLL
    for (int j = 0; j < kColumns; ++j) store(out + (c + j) * L, sum[j]);
  }
  for (; c < column_count; ++c) {
    Vec<T> sum{};
    for (int r = 0; r < row_count; ++r) {
      sum += load(in + r * L) * rows[static_cast<int64_t>(r) * column_count + c];
    }
    store(out + c * L, sum);
  }
}

template <class T>
void dct4_line(const Plan<T>* plan, int n, const T* in, int64_t in_stride, T* out,
               int64_t out_stride, T* work) {
  constexpr int L = kLanes<T>;
  if (n <= kMaxCodelet) return kCodelets<T>.dct4[n](in, in_stride, out, out_stride);
  if (n % 2 == 0) {
    const int half = n / 2;
    T* a = work;
    T* b = a + half * L;
    T* rest = b + half * L;
    for (int i = 0; i < half; ++i) {
      const Vec<T> first = load(in + i * in_stride), last = load(in + (n - 1 - i) * in_stride);
      const T* r = plan->rotations + 4 * i;
      store(a + i * L, first * r[0] + last * r[1]);
      store(b + i * L, last * r[2] + first * r[3]);
    }
    dct2_line(plan->half, half, a, L, a, L, rest);
    dct2_line(plan->half, half, b, L, b, L, rest);
    store(out, load(a));
    store(out + (n - 1) * out_stride, -load(b));
    for (int j = 1; j < half; ++j) {
      const Vec<T> p = load(a + j * L), q = load(b + (half - j) * L);
      store(out + 2 * j * out_stride, p + q);
      store(out + (2 * j - 1) * out_stride, p - q);
    }
    return;
  }
  T* z = work;
  T* rest = z + n * L;
  const OddDct4Entry* entries = plan->odd_dct4;
  for (int i = 0; i < n; ++i) {
    store(z + i * L, load(in + entries[i].source * in_stride) * T(entries[i].source_sign));
  }
  dct2_line(plan, n, z, L, z, L, rest);
  constexpr T kHalfRoot = static_cast<T>(cos_pi(1, 4));
  for (int k = 0; k < n; ++k) {
    const OddDct4Entry& e = entries[k];
    store(out + k * out_stride, load(z + e.cosine * L) * (kHalfRoot * e.cosine_sign) +
                                    load(z + e.sine * L) * (kHalfRoot * e.sine_sign));
  }
}

template <class T>
void dct2_line(const Plan<T>* plan, int n, const T* in, int64_t in_stride, T* out,
               int64_t out_stride, T* work) {
  constexpr int L = kLanes<T>;
  if (n <= kMaxCodelet) return kCodelets<T>.dct2[n](in, in_stride, out, out_stride);
  const int half = n / 2;
  T* sum = work;
  T* difference = sum + (n - half) * L;
  T* rest = difference + half * L;
  for (int i = 0; i < half; ++i) {
    const Vec<T> first = load(in + i * in_stride), last = load(in + (n - 1 - i) * in_stride);
    store(sum + i * L, first + last);
    store(difference + i * L, first - last);
  }
  if (n % 2 == 0) {
    dct2_line(plan->half, half, sum, L, out, 2 * out_stride, rest);
    dct4_line(plan->half, half, difference, L, out + out_stride, 2 * out_stride, rest);
  } else {
    store(sum + half * L, load(in + half * in_stride));
    multiply_rows(plan->even_rows, half + 1, half + 1, sum, out, 2 * out_stride);
    multiply_rows(plan->odd_rows, half, half, difference, out + out_stride, 2 * out_stride);
  }
}

template <class T>
void dct3_line(const Plan<T>* plan, int n, const T* in, int64_t in_stride, T* out,
               int64_t out_stride, T* work) {
  constexpr int L = kLanes<T>;
  if (n <= kMaxCodelet) return kCodelets<T>.dct3[n](in, in_stride, out, out_stride);
  const int half = n / 2;
  T* sum = work;
  T* difference = sum + (n - half) * L;
  T* rest = difference + half * L;
  if (n % 2 == 0) {
    dct3_line(plan->half, half, in, 2 * in_stride, sum, L, rest);
    dct4_line(plan->half, half, in + in_stride, 2 * in_stride, difference, L, rest);
  } else {
    T* gathered = rest;
    for (int j = 0; j <= half; ++j) store(gathered + j * L, load(in + 2 * j * in_stride));
    multiply_columns(plan->even_rows, half + 1, half + 1, gathered, sum);
    for (int j = 0; j < half; ++j) store(gathered + j * L, load(in + (2 * j + 1) * in_stride));
    multiply_columns(plan->odd_rows, half, half, gathered, difference);
    store(out + half * out_stride, load(sum + half * L));
  }
  for (int i = 0; i < half; ++i) {
    const Vec<T> even = load(sum + i * L), odd = load(difference + i * L);
    store(out + i * out_stride, even + odd);
    store(out + (n - 1 - i) * out_stride, even - odd);
  }
}
