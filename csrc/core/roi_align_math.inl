// SPDX-License-Identifier: Apache-2.0
// Where roi_align_rotated samples: shared by the CPU and the CUDA kernels, which define
// RSVHEAT_MATH (the function specifier) before they include it inside of namespace rsvheat.

// Samples of a bin along an axis are at most this many: a region of 1e6 pixels a bin is sampled
// coarser than once a pixel.
constexpr double kMostSamples = 1 << 20;

RSVHEAT_MATH int64_t samples_of_bin(double bin, int64_t sampling_ratio) {
  if (sampling_ratio > 0) return sampling_ratio;
  const double samples = __builtin_ceil(bin);
  return samples < kMostSamples ? static_cast<int64_t>(samples)
                                : static_cast<int64_t>(kMostSamples);
}

// Whether a box's first number is that of one of `batch` images.
RSVHEAT_MATH bool is_image(double number, int64_t batch) {
  return number >= 0 && number < static_cast<double>(batch) && number == __builtin_floor(number);
}

// `box`: image, center x and y, width, height, angle.
RSVHEAT_MATH Roi make_roi(const double* box, int64_t batch, int64_t height, int64_t width,
                          double scale, int64_t sampling_ratio) {
  constexpr double kLargest = 1e150;
  Roi roi{};
  double angle = box[5];
  if (!(is_image(box[0], batch) && __builtin_fabs(box[1]) <= kLargest &&
        __builtin_fabs(box[2]) <= kLargest && box[3] >= 0 && box[3] <= kLargest && box[4] >= 0 &&
        box[4] <= kLargest && angle - angle == 0)) {
    roi.image = -1;
    return roi;
  }
  roi.image = static_cast<int64_t>(box[0]);
  // Quarter turns are exact.
  angle = __builtin_fmod(angle, 360.0);
  const double turns = __builtin_floor(angle / 90.0 + 0.5);
  const double radians = (angle - turns * 90.0) * 0.017453292519943295;
  const double c = __builtin_cos(radians), s = __builtin_sin(radians);
  const int quadrant = static_cast<int>(turns) & 3;
  roi.cos = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
  roi.sin = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
  roi.x = box[1] * scale - 0.5;
  roi.y = box[2] * scale - 0.5;
  const double w = box[3] * scale, h = box[4] * scale;
  roi.start_x = -0.5 * w;
  roi.start_y = -0.5 * h;
  roi.bin_w = w / static_cast<double>(width);
  roi.bin_h = h / static_cast<double>(height);
  roi.samples_x = samples_of_bin(roi.bin_w, sampling_ratio);
  roi.samples_y = samples_of_bin(roi.bin_h, sampling_ratio);
  const double extent_x = 0.5 * (w * __builtin_fabs(roi.cos) + h * __builtin_fabs(roi.sin));
  const double extent_y = 0.5 * (w * __builtin_fabs(roi.sin) + h * __builtin_fabs(roi.cos));
  roi.min_x = roi.x - extent_x;
  roi.max_x = roi.x + extent_x;
  roi.min_y = roi.y - extent_y;
  roi.max_y = roi.y + extent_y;
  return roi;
}

// Position of sample `index` of bin `bin` along one of the region's axes, from its center.
RSVHEAT_MATH double along_axis(double start, double bin_size, int64_t bin, int64_t index,
                               int64_t samples) {
  return start + static_cast<double>(bin) * bin_size +
         (static_cast<double>(index) + 0.5) * bin_size / static_cast<double>(samples);
}

// The four pixels around a point, and what each counts.
struct Corners {
  int64_t low_y, high_y, low_x, high_x;
  double low_weight_y, high_weight_y, low_weight_x, high_weight_x;
};

// False, and nothing, for points more than a pixel outside. Up to there the border's pixels count.
RSVHEAT_MATH bool find_corners(const Roi& roi, double along_x, double along_y, int64_t height,
                               int64_t width, Corners* corners) {
  double x = roi.x + along_x * roi.cos + along_y * roi.sin;
  double y = roi.y - along_x * roi.sin + along_y * roi.cos;
  if (!(y >= -1.0 && y <= static_cast<double>(height) && x >= -1.0 &&
        x <= static_cast<double>(width))) {
    return false;
  }
  y = y > 0 ? y : 0;
  x = x > 0 ? x : 0;
  int64_t low_y = static_cast<int64_t>(y), low_x = static_cast<int64_t>(x);
  if (low_y >= height - 1) y = static_cast<double>(low_y = height - 1);
  if (low_x >= width - 1) x = static_cast<double>(low_x = width - 1);
  corners->low_y = low_y;
  corners->high_y = low_y < height - 1 ? low_y + 1 : low_y;
  corners->low_x = low_x;
  corners->high_x = low_x < width - 1 ? low_x + 1 : low_x;
  corners->high_weight_y = y - static_cast<double>(low_y);
  corners->high_weight_x = x - static_cast<double>(low_x);
  corners->low_weight_y = 1.0 - corners->high_weight_y;
  corners->low_weight_x = 1.0 - corners->high_weight_x;
  return true;
}

struct Range {
  int64_t begin, end;
};

// The samples of one axis of a bin that may lie in [low, high] along it, at most one too many at
// each end.
RSVHEAT_MATH Range samples_within(double low, double high, double start, double bin_size,
                                  int64_t bin, int64_t samples) {
  const double step = bin_size / static_cast<double>(samples);
  if (!(step > 0)) return {0, samples};
  const double first = start + static_cast<double>(bin) * bin_size + 0.5 * step;
  const double begin = (low - first) / step - 1, end = (high - first) / step + 2;
  const double most = static_cast<double>(samples);
  const double from = begin > 0 ? begin : 0, to = end < most ? end : most;
  if (!(from < to)) return {0, 0};
  return {static_cast<int64_t>(from), static_cast<int64_t>(to)};
}

// The stretch of each axis of the region, from its center, that a rectangle of pixels covers.
struct Window {
  double min_x, max_x, min_y, max_y;
};
RSVHEAT_MATH Window window_of(const Roi& roi, double min_x, double max_x, double min_y,
                              double max_y) {
  const double center_x = 0.5 * (min_x + max_x) - roi.x, half_x = 0.5 * (max_x - min_x);
  const double center_y = 0.5 * (min_y + max_y) - roi.y, half_y = 0.5 * (max_y - min_y);
  const double c = __builtin_fabs(roi.cos), s = __builtin_fabs(roi.sin);
  const double x = center_x * roi.cos - center_y * roi.sin, reach_x = half_x * c + half_y * s;
  const double y = center_x * roi.sin + center_y * roi.cos, reach_y = half_x * s + half_y * c;
  return {x - reach_x, x + reach_x, y - reach_y, y + reach_y};
}

// Points up to a pixel outside of the image count.
RSVHEAT_MATH Window image_window(const Roi& roi, const Shape& shape) {
  return window_of(roi, -1.0, static_cast<double>(shape.width), -1.0,
                   static_cast<double>(shape.height));
}

// What a bin's sum is divided by.
RSVHEAT_MATH double samples_in_bin(const Roi& roi) {
  return static_cast<double>(roi.samples_x < 1 ? 1 : roi.samples_x) *
         static_cast<double>(roi.samples_y < 1 ? 1 : roi.samples_y);
}

template <class T>
RSVHEAT_MATH RoiSample<T> sample_of(const Corners& c, int64_t width, double share) {
  const int64_t low = c.low_y * width, high = c.high_y * width;
  return {{low + c.low_x, low + c.high_x, high + c.low_x, high + c.high_x},
          {static_cast<T>(c.low_weight_y * c.low_weight_x * share),
           static_cast<T>(c.low_weight_y * c.high_weight_x * share),
           static_cast<T>(c.high_weight_y * c.low_weight_x * share),
           static_cast<T>(c.high_weight_y * c.high_weight_x * share)}};
}
