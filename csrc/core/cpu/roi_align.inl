// SPDX-License-Identifier: Apache-2.0
// RoIAlign of rotated boxes. NHWC features are resampled a register of channels at a time. NCHW
// features are copied to that layout first, or resampled plane by plane where the boxes have fewer
// points than the image has pixels (boxes.cpp decides).

// The points of one bin that lie on the image, handed on in runs of at most kRun.
inline constexpr int kRun = 64;

// Calls consume(samples, count) for the samples of bin (bin_y, bin_x).
template <class T, class Consume>
RSVHEAT_INLINE void visit_samples(const Roi& roi, const Window& window, const Shape& shape,
                                  int64_t bin_y, int64_t bin_x, const Consume& consume) {
  const double share = 1.0 / samples_in_bin(roi);
  const Range rows =
      samples_within(window.min_y, window.max_y, roi.start_y, roi.bin_h, bin_y, roi.samples_y);
  const Range columns =
      samples_within(window.min_x, window.max_x, roi.start_x, roi.bin_w, bin_x, roi.samples_x);
  RoiSample<T> samples[kRun];
  int count = 0;
  for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
    const double y = along_axis(roi.start_y, roi.bin_h, bin_y, iy, roi.samples_y);
    for (int64_t ix = columns.begin; ix < columns.end; ++ix) {
      const double x = along_axis(roi.start_x, roi.bin_w, bin_x, ix, roi.samples_x);
      Corners c;
      if (!find_corners(roi, x, y, shape.height, shape.width, &c)) continue;
      samples[count++] = sample_of<T>(c, shape.width, share);
      if (count == kRun) {
        consume(samples, count);
        count = 0;
      }
    }
  }
  if (count > 0) consume(samples, count);
}

// sums[first ...) += the samples' weighted features in kRegisters registers of channels from
// `first` on; `last` channels in the last register.
template <class S, int kRegisters>
RSVHEAT_INLINE void add_samples(const RoiSample<Compute<S>>* samples, int count, const S* x,
                                int64_t channels, int64_t first, int64_t last, Compute<S>* sums) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  Vec<T> totals[kRegisters];
  RSVHEAT_UNROLL
  for (int r = 0; r < kRegisters; ++r) totals[r] = load(sums + first + r * L);
  for (int i = 0; i < count; ++i) {
    RSVHEAT_UNROLL
    for (int corner = 0; corner < 4; ++corner) {
      const S* pixel = x + samples[i].pixels[corner] * channels + first;
      const Vec<T> weight = splat(samples[i].weights[corner]);
      RSVHEAT_UNROLL
      for (int r = 0; r < kRegisters; ++r) {
        const Vec<T> value =
            r == kRegisters - 1 ? load_first(pixel + r * L, last) : Storage<S>::load(pixel + r * L);
        totals[r] = multiply_add<T>(value, weight, totals[r]);
      }
    }
  }
  RSVHEAT_UNROLL
  for (int r = 0; r < kRegisters; ++r) store(sums + first + r * L, totals[r]);
}

// Row `bin_y` of a box's bins, from an image (H, W, C); each bin's channels, rounded up to whole
// registers, are in `sums` when done(bin_x) is called.
template <class S, class Done>
RSVHEAT_INLINE void align_row(const RoiAlignJob& job, const Roi& roi, int64_t bin_y, const S* x,
                              Compute<S>* sums, const Done& done) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t channels = job.shape.channels;
  const Window window = image_window(roi, job.shape);
  const T start = roi.image >= 0 ? T(0) : static_cast<T>(__builtin_nan(""));
  for (int64_t bin_x = 0; bin_x < job.grid.width; ++bin_x) {
    for (int64_t c = 0; c < channels; c += L) store(sums + c, splat(start));
    const auto consume = [&](const RoiSample<T>* samples, int count) {
      int64_t c = 0;
      for (; channels - c >= 4 * L; c += 4 * L) {
        add_samples<S, 4>(samples, count, x, channels, c, L, sums);
      }
      for (; c < channels; c += L) {
        add_samples<S, 1>(samples, count, x, channels, c, channels - c < L ? channels - c : L,
                          sums);
      }
    };
    if (roi.image >= 0) visit_samples<T>(roi, window, job.shape, bin_y, bin_x, consume);
    done(bin_x);
  }
}

template <class S>
void roi_align(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t channels = job.shape.channels;
  T* sums = reinterpret_cast<T*>(job.scratch + slot * job.scratch_bytes);
  for (int64_t item = begin; item < end; ++item) {
    const Roi& roi = job.rois[item / job.grid.height];
    const int64_t image = roi.image >= 0 ? roi.image : 0;
    const S* x =
        static_cast<const S*>(job.x) + image * job.shape.height * job.shape.width * channels;
    S* y = static_cast<S*>(job.y) + item * job.grid.width * channels;
    align_row(job, roi, item % job.grid.height, x, sums, [&](int64_t bin_x) {
      for (int64_t c = 0; c < channels; c += L) {
        store_first(y + bin_x * channels + c, load(sums + c), channels - c < L ? channels - c : L);
      }
    });
  }
}

// to[column * to_stride + row] = from[row * from_stride + column].
template <class From, class To>
RSVHEAT_INLINE void transpose_matrix(const From* from, int64_t from_stride, int64_t rows,
                                     int64_t columns, To* to, int64_t to_stride) {
  using T = Compute<From>;
  constexpr int L = kLanes<T>;
  for (int64_t row = 0; row < rows; row += L) {
    const int64_t rows_here = rows - row < L ? rows - row : L;
    for (int64_t column = 0; column < columns; column += L) {
      const int64_t columns_here = columns - column < L ? columns - column : L;
      Vec<T> block[L] = {};
      for (int64_t i = 0; i < rows_here; ++i) {
        block[i] = load_first(from + (row + i) * from_stride + column, columns_here);
      }
      transpose<T>(block);
      for (int64_t i = 0; i < columns_here; ++i) {
        store_first(to + (column + i) * to_stride + row, block[i], rows_here);
      }
    }
  }
}

template <class S>
void roi_to_pixels(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t) {
  using T = Compute<S>;
  const int64_t channels = job.shape.channels, pixels = job.shape.height * job.shape.width;
  const int64_t first = begin * kPixels, last = end * kPixels < pixels ? end * kPixels : pixels;
  const S* x = static_cast<const S*>(job.x) + job.image * channels * pixels;
  for (int64_t p = first; p < last; p += kPixels) {
    transpose_matrix(x + p, pixels, channels, last - p < kPixels ? last - p : kPixels,
                     static_cast<T*>(job.pixels) + p * channels, channels);
  }
}

template <class S>
void roi_align_pixels(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t channels = job.shape.channels, bins = job.grid.height * job.grid.width;
  const int64_t padded = (channels + L - 1) / L * L;
  T* rows = reinterpret_cast<T*>(job.scratch + slot * job.scratch_bytes);  // (bins, padded)
  for (int64_t k = begin; k < end; ++k) {
    const Roi& roi = job.rois[k];
    // Those of no image are done with the first one.
    if (roi.image != job.image && !(roi.image < 0 && job.image == 0)) continue;
    for (int64_t bin_y = 0; bin_y < job.grid.height; ++bin_y) {
      T* row = rows + bin_y * job.grid.width * padded;
      T* sums = rows + bins * padded;
      align_row(job, roi, bin_y, static_cast<const T*>(job.pixels), sums, [&](int64_t bin_x) {
        for (int64_t c = 0; c < padded; c += L) store(row + bin_x * padded + c, load(sums + c));
      });
    }
    transpose_matrix(rows, padded, bins, channels, static_cast<S*>(job.y) + k * channels * bins,
                     bins);
  }
}

template <class S>
RSVHEAT_INLINE Compute<S> load_one(const S* p) {
  return load_first(p, 1)[0];
}
template <class S>
RSVHEAT_INLINE void store_one(S* p, Compute<S> value) {
  store_first(p, splat(value), 1);
}

template <class S>
void roi_align_planes(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t) {
  using T = Compute<S>;
  const int64_t channels = job.shape.channels, bins = job.grid.height * job.grid.width;
  const int64_t pixels = job.shape.height * job.shape.width;
  const int64_t blocks = (channels + job.block_channels - 1) / job.block_channels;
  const auto* samples = static_cast<const RoiSample<T>*>(job.samples);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t k = item / blocks, first = item % blocks * job.block_channels;
    const int64_t last =
        channels - first < job.block_channels ? channels : first + job.block_channels;
    const Roi& roi = job.rois[k];
    const T start = roi.image >= 0 ? T(0) : static_cast<T>(__builtin_nan(""));
    for (int64_t c = first; c < last; ++c) {
      const S* plane =
          static_cast<const S*>(job.x) + ((roi.image >= 0 ? roi.image : 0) * channels + c) * pixels;
      S* y = static_cast<S*>(job.y) + (k * channels + c) * bins;
      for (int64_t bin = 0; bin < bins; ++bin) {
        T sum = start;
        const int64_t* begins = job.bin_begins + k * bins + bin;
        for (int64_t i = begins[0]; i < begins[1]; ++i) {
          for (int corner = 0; corner < 4; ++corner) {
            sum += load_one(plane + samples[i].pixels[corner]) * samples[i].weights[corner];
          }
        }
        store_one(y + bin, sum);
      }
    }
  }
}

// A block's gradients go to the result itself if that is NHWC and of the compute type, else to a
// plane (H * W, block) in the scratch first. NCHW gradients of the result are copied bin by bin.
template <class S>
void roi_align_backward(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const bool nhwc = job.layout == Layout::kNhwc;
  const bool direct = nhwc && sizeof(S) == sizeof(T);
  const int64_t channels = job.shape.channels, pixels = job.shape.height * job.shape.width;
  const int64_t bins = job.grid.height * job.grid.width, width = job.block_channels;
  const int64_t blocks = (channels + width - 1) / width;
  T* scratch = reinterpret_cast<T*>(job.scratch + slot * job.scratch_bytes);
  T* bin_rows = scratch + (direct ? 0 : pixels * width);  // (bins, width)
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks, first = item % blocks * width;
    const int64_t here = channels - first < width ? channels - first : width;
    S* result = static_cast<S*>(job.y) +
                (nhwc ? image * pixels * channels + first : (image * channels + first) * pixels);
    T* gradients = direct ? reinterpret_cast<T*>(result) : scratch;
    const int64_t stride = direct ? channels : width;
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < here; c += L) {
        store_first(gradients + p * stride + c, Vec<T>{}, here - c < L ? here - c : L);
      }
    }
    for (int64_t k = 0; k < job.count; ++k) {
      const Roi& roi = job.rois[k];
      if (roi.image != image) continue;
      const Window window = image_window(roi, job.shape);
      const S* grad = static_cast<const S*>(job.x) + k * bins * channels;
      if (nhwc) {
        for (int64_t bin = 0; bin < bins; ++bin) {
          for (int64_t c = 0; c < here; c += L) {
            const int64_t lanes = here - c < L ? here - c : L;
            store_first(bin_rows + bin * width + c,
                        load_first(grad + bin * channels + first + c, lanes), lanes);
          }
        }
      } else {
        transpose_matrix(grad + first * bins, bins, here, bins, bin_rows, width);
      }
      for (int64_t bin = 0; bin < bins; ++bin) {
        const T* row = bin_rows + bin * width;
        const auto consume = [&](const RoiSample<T>* samples, int count) {
          for (int64_t c = 0; c < here; c += L) {
            const int64_t lanes = here - c < L ? here - c : L;
            const Vec<T> value = load_first(row + c, lanes);
            for (int i = 0; i < count; ++i) {
              for (int corner = 0; corner < 4; ++corner) {
                T* at = gradients + samples[i].pixels[corner] * stride + c;
                const Vec<T> weight = splat(samples[i].weights[corner]);
                store_first(at, multiply_add<T>(value, weight, load_first(at, lanes)), lanes);
              }
            }
          }
        };
        visit_samples<T>(roi, window, job.shape, bin / job.grid.width, bin % job.grid.width,
                         consume);
      }
    }
    if (direct) continue;
    if (!nhwc) {
      transpose_matrix(gradients, stride, pixels, here, result, pixels);
      continue;
    }
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < here; c += L) {
        const int64_t lanes = here - c < L ? here - c : L;
        store_first(result + p * channels + c, load_first(gradients + p * stride + c, lanes),
                    lanes);
      }
    }
  }
}

template <class S>
void roi_align_backward_planes(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t channels = job.shape.channels, bins = job.grid.height * job.grid.width;
  const int64_t pixels = job.shape.height * job.shape.width;
  const auto* samples = static_cast<const RoiSample<T>*>(job.samples);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / channels, c = item % channels;
    S* result = static_cast<S*>(job.y) + item * pixels;
    T* plane = sizeof(S) == sizeof(T)
                   ? reinterpret_cast<T*>(result)
                   : reinterpret_cast<T*>(job.scratch + slot * job.scratch_bytes);
    __builtin_memset(plane, 0, pixels * sizeof(T));
    for (int64_t k = 0; k < job.count; ++k) {
      if (job.rois[k].image != image) continue;
      const S* grad = static_cast<const S*>(job.x) + (k * channels + c) * bins;
      for (int64_t bin = 0; bin < bins; ++bin) {
        const T value = load_one(grad + bin);
        const int64_t* begins = job.bin_begins + k * bins + bin;
        for (int64_t i = begins[0]; i < begins[1]; ++i) {
          for (int corner = 0; corner < 4; ++corner) {
            plane[samples[i].pixels[corner]] += value * samples[i].weights[corner];
          }
        }
      }
    }
    if (sizeof(S) == sizeof(T)) continue;
    for (int64_t p = 0; p < pixels; p += L) {
      const int64_t lanes = pixels - p < L ? pixels - p : L;
      store_first(result + p, load_first(plane + p, lanes), lanes);
    }
  }
}

template <class S>
inline constexpr RoiAlignKernels kRoiAlign{roi_align<S>,          roi_to_pixels<S>,
                                           roi_align_pixels<S>,   roi_align_planes<S>,
                                           roi_align_backward<S>, roi_align_backward_planes<S>};
