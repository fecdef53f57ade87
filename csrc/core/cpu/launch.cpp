// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

namespace rsvheat {
namespace {

constexpr int64_t kL2Bytes = 1 << 20;
// A little beyond L2, whole planes by L3 are still faster than strips.
constexpr int64_t kWholePlaneBytes = 4 * kL2Bytes;

// How many registers of channels an NHWC item takes: wide groups touch memory in longer runs, but
// its tiles should stay in L2 and every thread should have work.
int64_t channel_group(Shape shape, int64_t lanes, int64_t vector_bytes, int tiles, int threads) {
  constexpr int64_t kMaxGroup = 8;
  const int64_t registers = (shape.channels + lanes - 1) / lanes;
  const int64_t plane_bytes = shape.height * shape.width * vector_bytes;
  int64_t group = 1;
  while (2 * group <= kMaxGroup && group < registers &&
         2 * group * plane_bytes * tiles <= kL2Bytes &&
         (registers + 2 * group - 1) / (2 * group) * shape.batch >= threads) {
    group *= 2;
  }
  return group;
}

// A strip that leaves half of L2 to the lines. All channels of a pixel if they fit, so that memory
// is touched in long runs; fewer where the plane takes work space of its own, which L3 should hold.
Tile choose_strip(Shape shape, int64_t lanes, int64_t register_bytes, TileNeeds needs) {
  constexpr int64_t kPlaneBytes = 8 << 20;
  constexpr int64_t kMinGroup = 2;  // a cache line of 16-bit values
  const int64_t budget = kL2Bytes / 2 / (needs.strips * shape.height * register_bytes);
  int64_t group = std::max<int64_t>(1, std::min(budget, (shape.channels + lanes - 1) / lanes));
  if (needs.planes > 0) {
    const int64_t plane_bytes = shape.height * shape.width * register_bytes;
    group = std::min(group, std::max(kMinGroup, kPlaneBytes / plane_bytes));
  }
  return make_nhwc_tile(shape, group, std::max<int64_t>(1, budget / group));
}

}  // namespace

ParallelFor worthwhile_threads(ParallelFor host, Shape shape) {
  constexpr int64_t kElements = 16384;
  const int64_t threads = shape.batch * shape.height * shape.width * shape.channels / kElements;
  host.num_threads =
      static_cast<int>(std::clamp<int64_t>(threads, 1, std::max(host.num_threads, 1)));
  return host;
}

Tile choose_tile(Shape shape, Layout layout, int64_t lanes, size_t vector_bytes, TileNeeds needs,
                 int threads) {
  if (layout == Layout::kNchw) return make_nchw_tile(shape, lanes);
  const int64_t register_bytes = static_cast<int64_t>(vector_bytes);
  const int64_t plane_bytes = shape.height * shape.width * register_bytes;
  if (needs.strips > 0 && needs.whole * plane_bytes > kWholePlaneBytes) {
    const Tile strip = choose_strip(shape, lanes, register_bytes, needs);
    if (in_strips(shape, strip)) return strip;
  }
  const int64_t group = channel_group(shape, lanes, register_bytes, needs.whole, threads);
  return make_nhwc_tile(shape, group, shape.width);
}

}  // namespace rsvheat
