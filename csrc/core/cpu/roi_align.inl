// SPDX-License-Identifier: Apache-2.0
// RoIAlign of rotated boxes on NHWC features, a register of channels at a time.

// A sampled point: the four pixels around it as offsets into an image, and their weights.
template <class T>
struct Sample {
  int64_t offsets[4];
  T weights[4];
};

// The samples of one bin that lie on the image, handed on in runs of at most kRun.
inline constexpr int kRun = 64;

// Calls consume(samples, count) for the samples of bin (bin_y, bin_x).
template <class T, class Consume>
RSVHEAT_INLINE void visit_samples(const Roi& roi, const Window& window, const Shape& shape,
                                  int64_t pixel_stride, int64_t bin_y, int64_t bin_x,
                                  const Consume& consume) {
  const Range rows =
      samples_within(window.min_y, window.max_y, roi.start_y, roi.bin_h, bin_y, roi.samples_y);
  const Range columns =
      samples_within(window.min_x, window.max_x, roi.start_x, roi.bin_w, bin_x, roi.samples_x);
  Sample<T> samples[kRun];
  int count = 0;
  for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
    const double y = along_axis(roi.start_y, roi.bin_h, bin_y, iy, roi.samples_y);
    for (int64_t ix = columns.begin; ix < columns.end; ++ix) {
      const double x = along_axis(roi.start_x, roi.bin_w, bin_x, ix, roi.samples_x);
      Corners c;
      if (!find_corners(roi, x, y, shape.height, shape.width, &c)) continue;
      const int64_t low = c.low_y * shape.width, high = c.high_y * shape.width;
      samples[count++] = {{(low + c.low_x) * pixel_stride, (low + c.high_x) * pixel_stride,
                           (high + c.low_x) * pixel_stride, (high + c.high_x) * pixel_stride},
                          {static_cast<T>(c.low_weight_y * c.low_weight_x),
                           static_cast<T>(c.low_weight_y * c.high_weight_x),
                           static_cast<T>(c.high_weight_y * c.low_weight_x),
                           static_cast<T>(c.high_weight_y * c.high_weight_x)}};
      if (count == kRun) {
        consume(samples, count);
        count = 0;
      }
    }
  }
  if (count > 0) consume(samples, count);
}

// All points up to a pixel outside of the image.
RSVHEAT_INLINE Window image_window(const Roi& roi, const Shape& shape) {
  return window_of(roi, -1.0, static_cast<double>(shape.width), -1.0,
                   static_cast<double>(shape.height));
}

RSVHEAT_INLINE double samples_in_bin(const Roi& roi) {
  return static_cast<double>(roi.samples_x < 1 ? 1 : roi.samples_x) *
         static_cast<double>(roi.samples_y < 1 ? 1 : roi.samples_y);
}

// sums[0 .. kRegisters) += the samples' weighted features from channel `first` on; `last` channels
// in the last register.
template <class S, int kRegisters>
RSVHEAT_INLINE void add_samples(const Sample<Compute<S>>* samples, int count, const S* x,
                                int64_t first, int64_t last, Compute<S>* sums) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  Vec<T> totals[kRegisters];
  RSVHEAT_UNROLL
  for (int r = 0; r < kRegisters; ++r) totals[r] = load(sums + first + r * L);
  for (int i = 0; i < count; ++i) {
    RSVHEAT_UNROLL
    for (int corner = 0; corner < 4; ++corner) {
      const S* pixel = x + samples[i].offsets[corner] + first;
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

// Work items: (box, row of bins).
template <class S>
void roi_align(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t channels = job.shape.channels, width = job.grid.width;
  T* sums = reinterpret_cast<T*>(job.scratch + slot * job.scratch_bytes);
  for (int64_t item = begin; item < end; ++item) {
    const Roi& roi = job.rois[item / job.grid.height];
    const int64_t bin_y = item % job.grid.height;
    S* y = static_cast<S*>(job.y) + item * width * channels;
    const bool valid = roi.image >= 0;
    const S* x = static_cast<const S*>(job.x) +
                 (valid ? roi.image : 0) * job.shape.height * job.shape.width * channels;
    const Window window = image_window(roi, job.shape);
    const T scale = static_cast<T>(1.0 / samples_in_bin(roi));
    for (int64_t bin_x = 0; bin_x < width; ++bin_x, y += channels) {
      for (int64_t c = 0; c < channels; c += L) store(sums + c, Vec<T>{});
      const auto consume = [&](const Sample<T>* samples, int count) {
        int64_t c = 0;
        for (; channels - c >= 4 * L; c += 4 * L) {
          add_samples<S, 4>(samples, count, x, c, L, sums);
        }
        for (; c < channels; c += L) {
          add_samples<S, 1>(samples, count, x, c, channels - c < L ? channels - c : L, sums);
        }
      };
      if (valid) visit_samples<T>(roi, window, job.shape, channels, bin_y, bin_x, consume);
      const Vec<T> factor = splat(valid ? scale : static_cast<T>(__builtin_nan("")));
      for (int64_t c = 0; c < channels; c += L) {
        const Vec<T> mean = valid ? load(sums + c) * factor : factor;
        store_first(y + c, mean, channels - c < L ? channels - c : L);
      }
    }
  }
}

// Work items: (image, block of channels). A block's gradients go to the result itself, or, where
// that is of 16 bits, to a float32 plane first.
template <class S>
void roi_align_backward(const RoiAlignJob& job, int64_t begin, int64_t end, int64_t slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  constexpr bool kDirect = sizeof(S) == sizeof(T);
  const int64_t channels = job.shape.channels, pixels = job.shape.height * job.shape.width;
  const int64_t bins = job.grid.height * job.grid.width;
  const int64_t blocks = (channels + job.block_channels - 1) / job.block_channels;
  T* scratch = reinterpret_cast<T*>(job.scratch + slot * job.scratch_bytes);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks, first = item % blocks * job.block_channels;
    const int64_t here =
        channels - first < job.block_channels ? channels - first : job.block_channels;
    S* result = static_cast<S*>(job.y) + image * pixels * channels + first;
    T* gradients = scratch;
    if constexpr (kDirect) gradients = result;
    const int64_t stride = kDirect ? channels : job.block_channels;
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < here; c += L) {
        store_first(gradients + p * stride + c, Vec<T>{}, here - c < L ? here - c : L);
      }
    }
    for (int64_t k = 0; k < job.count; ++k) {
      const Roi& roi = job.rois[k];
      if (roi.image != image) continue;
      const Window window = image_window(roi, job.shape);
      const T scale = static_cast<T>(1.0 / samples_in_bin(roi));
      const S* grad = static_cast<const S*>(job.x) + k * bins * channels + first;
      for (int64_t bin = 0; bin < bins; ++bin, grad += channels) {
        const auto consume = [&](const Sample<T>* samples, int count) {
          for (int64_t c = 0; c < here; c += L) {
            const int64_t lanes = here - c < L ? here - c : L;
            const Vec<T> value = load_first(grad + c, lanes) * scale;
            for (int i = 0; i < count; ++i) {
              for (int corner = 0; corner < 4; ++corner) {
                T* at = gradients + samples[i].offsets[corner] + c;
                const Vec<T> weight = splat(samples[i].weights[corner]);
                store_first(at, multiply_add<T>(value, weight, load_first(at, lanes)), lanes);
              }
            }
          }
        };
        visit_samples<T>(roi, window, job.shape, stride, bin / job.grid.width, bin % job.grid.width,
                         consume);
      }
    }
    if constexpr (!kDirect) {
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t c = 0; c < here; c += L) {
          store_first(result + p * channels + c, load(gradients + p * stride + c),
                      here - c < L ? here - c : L);
        }
      }
    }
  }
}
