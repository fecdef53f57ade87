// SPDX-License-Identifier: Apache-2.0
// Depthwise 3x3 convolutions of features that are corrected and normed on the way: a thread walks
// down the rows with the last three of them, widened to float32 and framed by zeros, in cache.

template <class T>
int64_t padded_channels(Shape shape) {
  return round_up(shape.channels, kLanes<T>);
}

// Rows of pixels with a zero pixel at either end; a pixel is padded to whole registers.
template <class T>
struct RowRing {
  T* data;
  int64_t width, pixel;  // elements a pixel

  T* row(int64_t h) const { return data + (h + 3) % 3 * (width + 2) * pixel; }
  void clear(int64_t h) const { __builtin_memset(row(h), 0, (width + 2) * pixel * sizeof(T)); }
  void clear_ends(int64_t h) const {
    __builtin_memset(row(h), 0, pixel * sizeof(T));
    __builtin_memset(row(h) + (width + 1) * pixel, 0, pixel * sizeof(T));
  }
};

// The parameters in the kernels' form: one row of padded channels for each of the nine taps, in the
// order of rows and columns.
template <class T>
struct Correction {
  const T *embed, *weight, *bias;
  T *taps, *conv_bias;
  double eps;
  int64_t channels, pixel;

  Correction(const CorrectionJob& job, T* space)
      : embed(static_cast<const T*>(job.parameters.embed)),
        weight(static_cast<const T*>(job.parameters.norm.weight)),
        bias(static_cast<const T*>(job.parameters.norm.bias)),
        taps(space),
        conv_bias(space + 9 * padded_channels<T>(job.shape)),
        eps(job.parameters.norm.eps),
        channels(job.shape.channels),
        pixel(padded_channels<T>(job.shape)) {
    const T* kernel = static_cast<const T*>(job.parameters.conv_weight);
    const T* offset = static_cast<const T*>(job.parameters.conv_bias);
    __builtin_memset(space, 0, 10 * pixel * sizeof(T));
    for (int64_t c = 0; c < channels; ++c) {
      for (int tap = 0; tap < 9; ++tap) taps[tap * pixel + c] = kernel[c * 9 + tap];
      conv_bias[c] = offset[c];
    }
  }

  // relu(x + embed) of `pixels` pixels, at most kRowGroup, into `out`, and their moments.
  template <class S>
  RSVHEAT_INLINE void correct(int pixels, const S* x, const T* shift, T* out,
                              Moments<T>* moments) const {
    for (int i = 0; i < pixels; ++i) {
      for_channels<T>(channels, [&](int64_t c, int64_t count) {
        const int64_t at = i * channels + c;
        const Vec<T> v = load_first(x + at, count) + load_first(shift + at, count);
        store(out + i * pixel + c, v < T(0) ? Vec<T>{} : v);  // keeps NaN
      });
    }
    row_moments<T>(
        pixels, channels, eps, [&](int i, int64_t c, int64_t) { return load(out + i * pixel + c); },
        moments);
  }

  // Row h of one image, corrected and normed.
  template <class S>
  void norm_row(const S* image, int64_t h, const RowRing<T>& ring) const {
    const int64_t width = ring.width;
    ring.clear_ends(h);
    for (int64_t w = 0; w < width; w += kRowGroup) {
      const int pixels = static_cast<int>(width - w < kRowGroup ? width - w : kRowGroup);
      const int64_t at = (h * width + w) * channels;
      T* out = ring.row(h) + (w + 1) * pixel;
      Moments<T> moments[kRowGroup];
      correct(pixels, image + at, embed + at, out, moments);
      for (int i = 0; i < pixels; ++i) {
        T* one = out + i * pixel;
        for_channels<T>(channels, [&](int64_t c, int64_t count) {
          const Vec<T> scale = load_first(weight + c, count) * moments[i].inverse_deviation;
          store(one + c, (load(one + c) - moments[i].mean) * scale + load_first(bias + c, count));
        });
      }
    }
  }
};

template <class S, class T>
void widen_row(const S* image, int64_t h, int64_t channels, const RowRing<T>& ring) {
  ring.clear_ends(h);
  for (int64_t w = 0; w < ring.width; ++w) {
    const S* x = image + (h * ring.width + w) * channels;
    T* out = ring.row(h) + (w + 1) * ring.pixel;
    for_channels<T>(channels,
                    [&](int64_t c, int64_t count) { store(out + c, load_first(x + c, count)); });
  }
}

// Calls visit(w, columns) along row h for the registers at c: columns[3 * i + j] is column w - 1 +
// j of row h - 1 + i. Each pixel is loaded once.
template <class T, class Visit>
RSVHEAT_INLINE void slide(const RowRing<T>& ring, int64_t h, int64_t c, const Visit& visit) {
  const T* rows[3] = {ring.row(h - 1) + c, ring.row(h) + c, ring.row(h + 1) + c};
  Vec<T> columns[9];
  RSVHEAT_UNROLL
  for (int i = 0; i < 3; ++i) {
    columns[3 * i + 1] = load(rows[i]);
    columns[3 * i + 2] = load(rows[i] + ring.pixel);
  }
  for (int64_t w = 0; w < ring.width; ++w) {
    RSVHEAT_UNROLL
    for (int i = 0; i < 3; ++i) {
      columns[3 * i] = columns[3 * i + 1];
      columns[3 * i + 1] = columns[3 * i + 2];
      columns[3 * i + 2] = load(rows[i] + (w + 2) * ring.pixel);
    }
    visit(w, columns);
  }
}

// Correlation of row h with nine taps a channel: store_row(w, c, value).
template <class T, class Store>
RSVHEAT_INLINE void convolve_row(const RowRing<T>& ring, int64_t h, const T* taps,
                                 int64_t tap_stride, const T* start, const Store& store_row) {
  for (int64_t c = 0; c < ring.pixel; c += kLanes<T>) {
    Vec<T> tap[9];
    RSVHEAT_UNROLL
    for (int i = 0; i < 9; ++i) tap[i] = load(taps + i * tap_stride + c);
    const Vec<T> first = start ? load(start + c) : Vec<T>{};
    slide(ring, h, c, [&](int64_t w, const Vec<T>* columns) RSVHEAT_INLINE_LAMBDA {
      // A chain of multiply-adds for each row.
      Vec<T> top = columns[0] * tap[0] + first;
      Vec<T> middle = columns[3] * tap[3];
      Vec<T> bottom = columns[6] * tap[6];
      RSVHEAT_UNROLL
      for (int i = 1; i < 3; ++i) {
        top += columns[i] * tap[i];
        middle += columns[3 + i] * tap[3 + i];
        bottom += columns[6 + i] * tap[6 + i];
      }
      store_row(w, c, top + (middle + bottom));
    });
  }
}

// Walks down the rows [begin, end) of one image: before visit(h), `fill(h)` has been called for
// h - 1, h and h + 1 and rows outside the image are zero.
template <class Fill, class Clear, class Visit>
RSVHEAT_INLINE void walk_rows(int64_t begin, int64_t end, int64_t height, const Fill& fill,
                              const Clear& clear, const Visit& visit) {
  const auto prepare = [&](int64_t h) {
    if (h < 0 || h >= height) {
      clear(h);
    } else {
      fill(h);
    }
  };
  prepare(begin - 1);
  prepare(begin);
  for (int64_t h = begin; h < end; ++h) {
    prepare(h + 1);
    visit(h);
  }
}

// Calls body(space, begin, end) on ranges covering [0, count), each with a slot of work space.
template <class T, class Body>
void parallel_slots(const CorrectionJob& job, int64_t count, const Body& body) {
  const int64_t slots = count < job.workspace.slots ? count : job.workspace.slots;
  parallel_rows(*job.parallel, slots, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      T* space = reinterpret_cast<T*>(job.workspace.data + slot * job.workspace.slot_bytes);
      body(space, slot * count / slots, (slot + 1) * count / slots);
    }
  });
}

template <class S>
void spatial_correction_conv(const CorrectionJob& job) {
  using T = Compute<S>;
  const int64_t height = job.shape.height, width = job.shape.width, channels = job.shape.channels;
  const int64_t image_size = height * width * channels;
  parallel_slots<T>(job, job.shape.batch * height, [&](T* space, int64_t begin, int64_t end) {
    const Correction<T> correction(job, space);
    const RowRing<T> ring{space + 10 * correction.pixel, width, correction.pixel};
    while (begin < end) {
      const int64_t b = begin / height, first = begin % height;
      const int64_t last = first + (end - begin) < height ? first + (end - begin) : height;
      const S* image = static_cast<const S*>(job.x) + b * image_size;
      S* y = static_cast<S*>(job.y) + b * image_size;
      walk_rows(
          first, last, height, [&](int64_t h) { correction.norm_row(image, h, ring); },
          [&](int64_t h) { ring.clear(h); },
          [&](int64_t h) {
            convolve_row(ring, h, correction.taps, correction.pixel, correction.conv_bias,
                         [&](int64_t w, int64_t c, Vec<T> value) RSVHEAT_INLINE_LAMBDA {
                           store_first(y + (h * width + w) * channels + c, value, channels - c);
                         });
          });
      begin += last - first;
    }
  });
}

template <class S>
void spatial_correction_conv_backward(const CorrectionBackwardJob& job) {
  using T = Compute<S>;
  const int64_t height = job.shape.height, width = job.shape.width, channels = job.shape.channels;
  const int64_t image_size = height * width * channels, pixel = padded_channels<T>(job.shape);
  T* partial = static_cast<T*>(job.partial_sums);
  parallel_slots<T>(job, job.blocks, [&](T* space, int64_t first_block, int64_t last_block) {
    const Correction<T> correction(job, space);
    T* next = space + 10 * pixel;
    const RowRing<T> normed{next, width, pixel};
    next += ring_elements(width, pixel);
    const RowRing<T> grads{next, width, pixel};
    next += ring_elements(width, pixel);
    T* grad_norm = next;                       // a row
    T* corrected = grad_norm + width * pixel;  // a pixel
    T* flipped = corrected + pixel;            // the taps in the other order
    for (int tap = 0; tap < 9; ++tap) {
      __builtin_memcpy(flipped + tap * pixel, correction.taps + (8 - tap) * pixel,
                       pixel * sizeof(T));
    }
    for (int64_t block = first_block; block < last_block; ++block) {
      T* sums = partial + block * 12 * pixel;  // taps, convolution's bias, norm's weight, bias
      __builtin_memset(sums, 0, 12 * pixel * sizeof(T));
      T* conv_bias_sums = sums + 9 * pixel;
      T* weight_sums = sums + 10 * pixel;
      T* bias_sums = sums + 11 * pixel;
      const int64_t begin = block * height / job.blocks, end = (block + 1) * height / job.blocks;
      for (int64_t b = 0; b < job.shape.batch; ++b) {
        const S* image = static_cast<const S*>(job.x) + b * image_size;
        const S* grad_y = static_cast<const S*>(job.grad_y) + b * image_size;
        S* grad_x = static_cast<S*>(job.gradients.x) + b * image_size;
        const auto visit = [&](int64_t h) {
          for (int64_t c = 0; c < pixel; c += kLanes<T>) {
            Vec<T> tap_sums[9], bias_sum = load(conv_bias_sums + c);
            for (int i = 0; i < 9; ++i) tap_sums[i] = load(sums + i * pixel + c);
            const T* grad_row = grads.row(h) + pixel + c;
            slide(normed, h, c, [&](int64_t w, const Vec<T>* columns) RSVHEAT_INLINE_LAMBDA {
              const Vec<T> grad = load(grad_row + w * pixel);
              bias_sum += grad;
              RSVHEAT_UNROLL
              for (int i = 0; i < 9; ++i) tap_sums[i] += columns[i] * grad;
            });
            for (int i = 0; i < 9; ++i) store(sums + i * pixel + c, tap_sums[i]);
            store(conv_bias_sums + c, bias_sum);
          }
          convolve_row(grads, h, flipped, pixel, static_cast<const T*>(nullptr),
                       [&](int64_t w, int64_t c, Vec<T> value)
                           RSVHEAT_INLINE_LAMBDA { store(grad_norm + w * pixel + c, value); });
          for (int64_t w = 0; w < width; ++w) {
            const int64_t at = (h * width + w) * channels;
            T* grad = grad_norm + w * pixel;
            T* grad_embed = static_cast<T*>(job.gradients.embed) + at;
            Moments<T> moments;
            correction.correct(1, image + at, correction.embed + at, corrected, &moments);
            const auto normalized = [&](int64_t c, int64_t) {
              return (load(corrected + c) - moments.mean) * moments.inverse_deviation;
            };
            for_channels<T>(channels, [&](int64_t c, int64_t count) {
              const Vec<T> value = load(grad + c);  // zero beyond the channels
              store(weight_sums + c, load(weight_sums + c) + value * normalized(c, count));
              store(bias_sums + c, load(bias_sums + c) + value);
              store(grad + c, value * load_first(correction.weight + c, count));
            });
            norm_row_backward<T>(
                channels, moments.inverse_deviation,
                [&](int64_t c, int64_t) { return load(grad + c); }, normalized,
                [&](int64_t c, int64_t count, Vec<T> v) {
                  v = load(corrected + c) <= T(0) ? Vec<T>{} : v;  // keeps NaN
                  store_first(grad_x + at + c, v, count);
                  const Vec<T> before = b == 0 ? Vec<T>{} : load_first(grad_embed + c, count);
                  store_first(grad_embed + c, before + v, count);
                });
          }
        };
        walk_rows(
            begin, end, height,
            [&](int64_t h) {
              correction.norm_row(image, h, normed);
              widen_row(grad_y, h, channels, grads);
            },
            [&](int64_t h) {
              normed.clear(h);
              grads.clear(h);
            },
            visit);
      }
    }
  });
  sum_blocks(partial, job.blocks, 12 * pixel, 12 * pixel);
  T* conv_weight = static_cast<T*>(job.gradients.conv_weight);
  for (int64_t c = 0; c < channels; ++c) {
    for (int tap = 0; tap < 9; ++tap) conv_weight[c * 9 + tap] = partial[tap * pixel + c];
  }
  __builtin_memcpy(job.gradients.conv_bias, partial + 9 * pixel, channels * sizeof(T));
  __builtin_memcpy(job.gradients.norm_weight, partial + 10 * pixel, channels * sizeof(T));
  __builtin_memcpy(job.gradients.norm_bias, partial + 11 * pixel, channels * sizeof(T));
}
