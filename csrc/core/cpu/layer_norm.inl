// SPDX-License-Identifier: Apache-2.0
// Layer norms of rows of channels with the pointwise step that follows them.

// Sum of all lanes, by halves.
template <class T, int kBit = kLanes<T> / 2, size_t... kLane>
RSVHEAT_INLINE Vec<T> add_lanes(Vec<T> v, std::index_sequence<kLane...> lanes) {
  v += __builtin_shufflevector(v, v, (kLane ^ kBit)...);
  if constexpr (kBit > 1) v = add_lanes<T, kBit / 2>(v, lanes);
  return v;
}

template <class T>
RSVHEAT_INLINE T horizontal_sum(Vec<T> v) {
  return add_lanes<T>(v, std::make_index_sequence<kLanes<T>>{})[0];
}

// Ones in the first `count` lanes, zeros in the others.
template <class T>
RSVHEAT_INLINE Vec<T> first_lanes(int64_t count) {
  Vec<T> ones{};
  for (int i = 0; i < kLanes<T>; ++i) ones[i] = i < count ? T(1) : T(0);
  return ones;
}

// Calls visit(c, lanes in use) for each register of a row of channels.
template <class T, class Visit>
RSVHEAT_INLINE void for_channels(int64_t channels, const Visit& visit) {
  int64_t c = 0;
  for (; c + kLanes<T> <= channels; c += kLanes<T>) visit(c, int64_t{kLanes<T>});
  if (c < channels) visit(c, channels - c);
}

// Sum over a row of term(c, lanes in use), whose other lanes are zero. Four chains of additions.
template <class T, class Term>
RSVHEAT_INLINE T sum_channels(int64_t channels, const Term& term) {
  constexpr int L = kLanes<T>;
  Vec<T> sums[4] = {};
  int64_t c = 0;
  for (; c + 4 * L <= channels; c += 4 * L) {
    RSVHEAT_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] += term(c + i * L, int64_t{L});
  }
  for (; c < channels; c += L) sums[0] += term(c, channels - c < L ? channels - c : int64_t{L});
  return horizontal_sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T>
struct Moments {
  T mean, inverse_deviation;
};

// Of `rows` rows, at most kRowGroup, whose registers value(row, c, lanes in use) returns. In turns,
// so that one row's additions fill the time which another's reduction to a scalar takes.
constexpr int kRowGroup = 4;
template <class T, class Value>
RSVHEAT_INLINE void row_moments(int rows, int64_t channels, double eps, const Value& value,
                                Moments<T>* moments) {
  for (int i = 0; i < rows; ++i) {
    const T sum =
        sum_channels<T>(channels, [&](int64_t c, int64_t count) { return value(i, c, count); });
    moments[i].mean = sum / static_cast<T>(channels);
  }
  for (int i = 0; i < rows; ++i) {
    const T squares = sum_channels<T>(channels, [&](int64_t c, int64_t count) {
      Vec<T> centered = value(i, c, count) - moments[i].mean;
      if (count < kLanes<T>) centered *= first_lanes<T>(count);
      return centered * centered;
    });
    const double variance = static_cast<double>(squares) / static_cast<double>(channels);
    moments[i].inverse_deviation = static_cast<T>(1.0 / __builtin_sqrt(variance + eps));
  }
}

template <class T>
RSVHEAT_INLINE Vec<T> sigmoid(Vec<T> v) {
  const Vec<T> e = exp_nonpositive(v < T(0) ? v : -v);
  return (v < T(0) ? e : splat(T(1))) / (T(1) + e);
}

// Calls body(begin, end) on ranges of rows, one a thread.
template <class Body>
void parallel_rows(const ParallelFor& parallel, int64_t rows, const Body& body) {
  struct Context {
    const Body* body;
    int64_t rows, parts;
  };
  const int64_t parts = rows < parallel.num_threads ? rows : parallel.num_threads;
  Context context{&body, rows, parts};
  parallel.run(
      parts,
      [](void* p, int64_t begin, int64_t end) {
        const Context& c = *static_cast<const Context*>(p);
        (*c.body)(begin* c.rows / c.parts, end * c.rows / c.parts);
      },
      &context);
}

template <class S>
void layer_norm(const NormJob& job) {
  using T = Compute<S>;
  const T* weight = static_cast<const T*>(job.norm.weight);
  const T* bias = static_cast<const T*>(job.norm.bias);
  const int64_t channels = job.channels;
  const auto run = [&]<NormStep kStep>() {
    parallel_rows(*job.parallel, job.rows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row += kRowGroup) {
        const int rows = static_cast<int>(end - row < kRowGroup ? end - row : kRowGroup);
        const S* x = static_cast<const S*>(job.x) + row * channels;
        const S* other = static_cast<const S*>(job.other) + row * channels;
        S* y = static_cast<S*>(job.y) + row * channels;
        const auto value = [&](int i, int64_t c, int64_t count) {
          return load_first(x + i * channels + c, count);
        };
        Moments<T> moments[kRowGroup];
        row_moments<T>(rows, channels, job.norm.eps, value, moments);
        for (int i = 0; i < rows; ++i) {
          for_channels<T>(channels, [&](int64_t c, int64_t count) {
            const Vec<T> scale = load_first(weight + c, count) * moments[i].inverse_deviation;
            const Vec<T> normed =
                (value(i, c, count) - moments[i].mean) * scale + load_first(bias + c, count);
            const Vec<T> second = load_first(other + i * channels + c, count);
            store_first(
                y + i * channels + c,
                kStep == NormStep::kAdd ? second + normed : normed * second * sigmoid<T>(second),
                count);
          });
        }
      }
    });
  };
  if (job.step == NormStep::kAdd) {
    run.template operator()<NormStep::kAdd>();
  } else {
    run.template operator()<NormStep::kGate>();
  }
}

// The gradient of a row of a norm with respect to what went in. `normalized` is the row after
// subtraction of the mean and division by the deviation, `grad` that of the norm's output times its
// weight: d = (grad - mean(grad) - normalized * mean(grad * normalized)) / deviation.
template <class T, class Grad, class Normalized, class Store>
RSVHEAT_INLINE void norm_row_backward(int64_t channels, T inverse_deviation, const Grad& grad,
                                      const Normalized& normalized, const Store& store_row) {
  const T mean = sum_channels<T>(channels, grad) / static_cast<T>(channels);
  const T slope = sum_channels<T>(channels,
                                  [&](int64_t c, int64_t count) {
                                    return grad(c, count) * normalized(c, count);
                                  }) /
                  static_cast<T>(channels);
  for_channels<T>(channels, [&](int64_t c, int64_t count) {
    const Vec<T> centered = grad(c, count) - mean - normalized(c, count) * slope;
    store_row(c, count, centered * inverse_deviation);
  });
}

template <class T>
RSVHEAT_INLINE void add_to(T* sums, int64_t count, Vec<T> value) {
  store_first(sums, load_first(sums, count) + value, count);
}

// Adds what the later blocks of rows found, in their order, to the first block's sums.
template <class T>
void sum_blocks(T* partial, int64_t blocks, int64_t stride, int64_t count) {
  for (int64_t block = 1; block < blocks; ++block) {
    for (int64_t i = 0; i < count; ++i) partial[i] += partial[block * stride + i];
  }
}

template <class S>
void layer_norm_backward(const NormBackwardJob& job) {
  using T = Compute<S>;
  const T* weight = static_cast<const T*>(job.norm.weight);
  const T* bias = static_cast<const T*>(job.norm.bias);
  const int64_t channels = job.channels;
  // A block's part: sums for weight and bias, and a row of gradients of the norm's output.
  T* partial = static_cast<T*>(job.partial_sums);
  const auto run = [&]<NormStep kStep>() {
    parallel_rows(*job.parallel, job.blocks, [&](int64_t first_block, int64_t last_block) {
      for (int64_t block = first_block; block < last_block; ++block) {
        T* weight_sums = partial + block * 3 * channels;
        T* bias_sums = weight_sums + channels;
        T* grad_norm = bias_sums + channels;
        for (int64_t i = 0; i < 2 * channels; ++i) weight_sums[i] = T(0);
        const int64_t end = (block + 1) * job.rows / job.blocks;
        for (int64_t row = block * job.rows / job.blocks; row < end; ++row) {
          const int64_t at = row * channels;
          const S* x = static_cast<const S*>(job.x) + at;
          const S* grad_y = static_cast<const S*>(job.grad_y) + at;
          const S* other = static_cast<const S*>(job.other) + at;
          S* grad_x = static_cast<S*>(job.grad_x) + at;
          S* grad_other = static_cast<S*>(job.grad_other) + at;
          Moments<T> moments;
          row_moments<T>(
              1, channels, job.norm.eps,
              [x](int, int64_t c, int64_t count) { return load_first(x + c, count); }, &moments);
          const auto normalized = [&](int64_t c, int64_t count) {
            return (load_first(x + c, count) - moments.mean) * moments.inverse_deviation;
          };
          for_channels<T>(channels, [&](int64_t c, int64_t count) {
            const Vec<T> unit = normalized(c, count);
            const Vec<T> scale = load_first(weight + c, count);
            Vec<T> grad = load_first(grad_y + c, count);
            if (kStep == NormStep::kGate) {
              const Vec<T> gate = load_first(other + c, count);
              const Vec<T> open = sigmoid<T>(gate);
              const Vec<T> normed = unit * scale + load_first(bias + c, count);
              // silu'(g) = s + g * s * (1 - s), s the sigmoid
              store_first(grad_other + c, grad * normed * (open + gate * open * (T(1) - open)),
                          count);
              grad *= gate * open;
            }
            add_to(weight_sums + c, count, grad * unit);
            add_to(bias_sums + c, count, grad);
            store_first(grad_norm + c, grad * scale, count);
          });
          norm_row_backward<T>(
              channels, moments.inverse_deviation,
              [&](int64_t c, int64_t count) { return load_first(grad_norm + c, count); },
              normalized,
              [&](int64_t c, int64_t count, Vec<T> v) { store_first(grad_x + c, v, count); });
        }
      }
    });
  };
  if (job.step == NormStep::kAdd) {
    run.template operator()<NormStep::kAdd>();
  } else {
    run.template operator()<NormStep::kGate>();
  }
  sum_blocks(partial, job.blocks, 3 * channels, 2 * channels);
  __builtin_memcpy(job.grad_weight, partial, channels * sizeof(T));
  __builtin_memcpy(job.grad_bias, partial + channels, channels * sizeof(T));
}
