// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rsvheat {

// What make_roi (roi_align_math.inl) makes of a box, in pixels of the features: pixel (0, 0) has
// its center at (0, 0).
struct Roi {
  double x, y, cos, sin;
  double start_x, start_y;       // of the first bin, from the center, along the region's own axes
  double bin_w, bin_h;           // of a bin
  int64_t samples_x, samples_y;  // in a bin
  int64_t image;                 // -1: the box is invalid
  double min_x, max_x, min_y, max_y;  // around all samples
};

// A sampled point of type T: the four pixels around it and their weights, which include the share
// of the point in its bin's mean.
template <class T>
struct RoiSample {
  int64_t pixels[4];
  T weights[4];
};

}  // namespace rsvheat
