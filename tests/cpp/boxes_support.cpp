// SPDX-License-Identifier: Apache-2.0
#include "boxes_support.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace rsvheat::testing {
namespace {

using Real = long double;
struct Point {
  Real x, y;
};

std::vector<Point> corners(const double* box, const double* origin) {
  const Real angle = box[4] * (std::numbers::pi_v<Real> / 180);
  const Real c = std::cos(angle), s = std::sin(angle);
  std::vector<Point> points;
  for (const auto& [u, v] : {std::pair{-1, -1}, {1, -1}, {1, 1}, {-1, 1}}) {
    const Real across = u * Real(box[2]) / 2, down = v * Real(box[3]) / 2;
    points.push_back({Real(box[0]) - Real(origin[0]) + across * c + down * s,
                      Real(box[1]) - Real(origin[1]) - across * s + down * c});
  }
  return points;
}

Real cross(Point a, Point b, Point p) {
  return (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x);
}

}  // namespace

Values random_boxes(int64_t count, double extent, DType dtype, uint32_t seed) {
  const Values centers = random_uniform(2 * count, 0, extent, dtype, seed);
  const Values sides = random_uniform(2 * count, 5, 60, dtype, seed + 1);
  const Values angles = random_uniform(count, -360, 360, dtype, seed + 2);
  Values boxes;
  for (int64_t i = 0; i < count; ++i) {
    boxes.insert(boxes.end(),
                 {centers[2 * i], centers[2 * i + 1], sides[2 * i], sides[2 * i + 1], angles[i]});
  }
  return boxes;
}

Values hard_boxes(int64_t count, DType dtype, uint32_t seed) {
  Values boxes = random_boxes(count, 100, dtype, seed);
  for (int64_t i = 1; i < count; ++i) {
    double* box = &boxes[5 * i];
    const double* before = box - 5;
    switch (i % 8) {
      case 1:
        std::copy(before, before + 5, box);
        break;
      case 2:  // inside of the one before
        std::copy(before, before + 5, box);
        box[2] /= 2;
        box[3] /= 4;
        break;
      case 3:
        box[2] = 0.0078125;
        break;
      case 4:
        box[3] = 0;
        break;
      case 5:
        std::copy(before, before + 5, box);
        box[4] += 180;
        break;
      case 6:
        box[4] = static_cast<double>(90 * (i / 8 % 9 - 4));
        break;
      case 7:  // shares a side with the one before
        std::copy(before, before + 5, box);
        box[0] += box[2];
        break;
      default:
        break;
    }
  }
  return Array(dtype, boxes).values();
}

double reference_iou(const double* a, const double* b) {
  const auto p = corners(a, b), q = corners(b, b);
  std::vector<Point> clipped = p;
  for (size_t i = 0; i < 4; ++i) {
    const Point from = q[i], to = q[(i + 1) % 4];
    std::vector<Point> next;
    for (size_t k = 0; k < clipped.size(); ++k) {
      const Point before = clipped[(k + clipped.size() - 1) % clipped.size()], here = clipped[k];
      const Real side_before = cross(from, to, before), side = cross(from, to, here);
      if ((side_before >= 0) != (side >= 0)) {
        const Real t = side_before / (side_before - side);
        next.push_back({before.x + t * (here.x - before.x), before.y + t * (here.y - before.y)});
      }
      if (side >= 0) next.push_back(here);
    }
    clipped = next;
  }
  Real area = 0;
  for (size_t k = 2; k < clipped.size(); ++k) area += cross(clipped[0], clipped[k - 1], clipped[k]);
  area /= 2;
  if (a[2] * a[3] == 0 || b[2] * b[3] == 0) return 0;
  const Real all = Real(a[2]) * Real(a[3]) + Real(b[2]) * Real(b[3]) - area;
  return all > 0 ? static_cast<double>(area / all) : 0;
}

Array box_iou(const Array& a, const Array& b, bool aligned, const ParallelFor& parallel) {
  const int64_t n = static_cast<int64_t>(a.values().size()) / 5;
  const int64_t m = static_cast<int64_t>(b.values().size()) / 5;
  Array iou(a.dtype(), aligned ? n : n * m);
  box_iou_rotated_cpu(a.data(), n, b.data(), m, aligned, iou.data(), a.dtype(), parallel);
  return iou;
}

std::vector<bool> reference_nms(const Values& iou, const std::vector<int64_t>& order,
                                const std::vector<int64_t>& labels, double threshold) {
  const int64_t n = static_cast<int64_t>(order.size());
  std::vector<bool> keep(n, true);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i && keep[i]; ++j) {
      const int64_t a = order[i], b = order[j];
      if (!labels.empty() && labels[a] != labels[b]) continue;
      if (keep[j] && iou[a * n + b] > threshold) keep[i] = false;
    }
  }
  return keep;
}

std::vector<int64_t> random_order(int64_t count, uint32_t seed) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  return order;
}

Values random_regions(int64_t k, Shape shape, uint32_t seed) {
  const double width = 4.0 * static_cast<double>(shape.width);
  const double height = 4.0 * static_cast<double>(shape.height);
  const Values unit = random_uniform(6 * k, 0, 1, DType::kFloat64, seed);
  Values boxes;
  for (int64_t i = 0; i < k; ++i) {
    const double* u = &unit[6 * i];
    boxes.insert(boxes.end(),
                 {std::floor(u[0] * static_cast<double>(shape.batch)), width * (1.4 * u[1] - 0.2),
                  height * (1.4 * u[2] - 0.2), width * u[3], height * u[4], 720 * u[5] - 360});
  }
  return boxes;
}

Values to_layout(const Values& nhwc, Shape shape, Layout layout) {
  if (layout == Layout::kNhwc) return nhwc;
  Values nchw;
  const int64_t pixels = shape.height * shape.width;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) {
        nchw.push_back(nhwc[(b * pixels + p) * shape.channels + c]);
      }
    }
  }
  return nchw;
}

Values from_layout(const Values& values, Shape shape, Layout layout) {
  if (layout == Layout::kNhwc) return values;
  // A matrix (C, H * W) for each image: transposing it again exchanges the roles.
  return to_layout(values, {shape.batch, shape.channels, 1, shape.height * shape.width}, layout);
}

Values reference_align(const Values& x, const Values& boxes, RoiGrid grid, Shape shape) {
  Values y;
  for (size_t i = 0; i < boxes.size(); i += 6) {
    const double* box = &boxes[i];
    const double angle = box[5] * (std::numbers::pi / 180);
    const double c = std::cos(angle), s = std::sin(angle);
    const double bin_w = box[3] * grid.scale / static_cast<double>(grid.width);
    const double bin_h = box[4] * grid.scale / static_cast<double>(grid.height);
    const auto samples = [&](double bin) {
      return grid.sampling_ratio > 0 ? grid.sampling_ratio : static_cast<int64_t>(std::ceil(bin));
    };
    const int64_t across = samples(bin_w), down = samples(bin_h);
    const double all = static_cast<double>(std::max<int64_t>(across * down, 1));
    for (int64_t bin = 0; bin < grid.height * grid.width; ++bin) {
      Values sums(shape.channels, 0.0);
      for (int64_t sample = 0; sample < across * down; ++sample) {
        const double u =
            (static_cast<double>(bin % grid.width) - static_cast<double>(grid.width) / 2 +
             (static_cast<double>(sample % across) + 0.5) / static_cast<double>(across)) *
            bin_w;
        const double v =
            (static_cast<double>(bin / grid.width) - static_cast<double>(grid.height) / 2 +
             (static_cast<double>(sample / across) + 0.5) / static_cast<double>(down)) *
            bin_h;
        const double at_x = box[1] * grid.scale - 0.5 + u * c + v * s;
        const double at_y = box[2] * grid.scale - 0.5 - u * s + v * c;
        const double last_x = static_cast<double>(shape.width - 1);
        const double last_y = static_cast<double>(shape.height - 1);
        if (at_x < -1 || at_y < -1 || at_x > last_x + 1 || at_y > last_y + 1) continue;
        const double px = std::clamp(at_x, 0.0, last_x), py = std::clamp(at_y, 0.0, last_y);
        for (const double qx : {std::floor(px), std::floor(px) + 1}) {
          for (const double qy : {std::floor(py), std::floor(py) + 1}) {
            if (qx > last_x || qy > last_y) continue;
            const double weight = (1 - std::fabs(px - qx)) * (1 - std::fabs(py - qy)) / all;
            const auto pixel =
                static_cast<int64_t>((box[0] * static_cast<double>(shape.height) + qy) *
                                         static_cast<double>(shape.width) +
                                     qx);
            for (int64_t ch = 0; ch < shape.channels; ++ch) {
              sums[ch] += weight * x[pixel * shape.channels + ch];
            }
          }
        }
      }
      y.insert(y.end(), sums.begin(), sums.end());
    }
  }
  return y;
}

}  // namespace rsvheat::testing
