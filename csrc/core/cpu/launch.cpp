// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

namespace rsvheat {
namespace {

// How many registers of channels an NHWC item takes: wide groups touch memory in longer runs, but
// its tiles should stay in L2 and every thread should have work.
int64_t channel_group(Shape shape, int64_t lanes, int64_t vector_bytes, int tiles, int threads) {
  constexpr int64_t kL2Bytes = 1 << 20;
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

}  // namespace

ParallelFor worthwhile_threads(ParallelFor host, Shape shape) {
  constexpr int64_t kElements = 16384;
  const int64_t threads = shape.batch * shape.height * shape.width * shape.channels / kElements;
  host.num_threads =
      static_cast<int>(std::clamp<int64_t>(threads, 1, std::max(host.num_threads, 1)));
  return host;
}

Tile choose_tile(Shape shape, Layout layout, int64_t lanes, size_t vector_bytes, int tiles,
                 int threads) {
  if (layout == Layout::kNchw) return make_nchw_tile(shape, lanes);
  return make_nhwc_tile(shape, channel_group(shape, lanes, vector_bytes, tiles, threads));
}

}  // namespace rsvheat
