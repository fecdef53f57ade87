// SPDX-License-Identifier: Apache-2.0
#include "transform.h"

#include <algorithm>

namespace rsvheat::cuda {
namespace {

enum class Path { kTile, kMatrix, kPasses, kFft };

Path choose_path(Shape shape, DType type, Layout layout, DeviceLimits limits) {
  if (layout == Layout::kNchw) return Path::kFft;
  if (tile_fits(shape, type, limits)) return Path::kTile;
  if (matrix_fits(shape, type, limits)) return Path::kMatrix;
  if (std::max(shape.height, shape.width) <= kMaxMatrixSize) return Path::kPasses;
  return Path::kFft;
}

// What the passes take at once: a chunk of the channels of some images. What one pass writes and
// the next reads has to stay in the level-2 cache, of which each half of an H100 has 25 MiB, with
// the filter of a chunk, which serves all images. Half of kCacheBytes also makes at least one whole
// wave of the line kernels' blocks.
struct PassStep {
  int64_t images, channels;
};

PassStep pass_step(Shape shape, DType type, bool round_trip) {
  constexpr int64_t kBytes = kCacheBytes / 2;
  const int64_t plane = shape.height * shape.width * int64_t(accumulator_size(type));
  PassStep step{1, shape.channels};
  // One direction ends or begins at its operand with the columns, which have no chunks there.
  if (round_trip && shape.channels % kLineLanes == 0 && is_line_size(shape.height, type) &&
      is_line_size(shape.width, type)) {
    const int64_t units = shape.channels / kLineLanes;
    const int64_t images = std::min<int64_t>(shape.batch, 2);
    int64_t chunk = units;
    while (chunk > 1 && (units % chunk != 0 || images * plane * chunk * kLineLanes > kBytes))
      --chunk;
    step.channels = chunk * kLineLanes;
  }
  const int64_t most = std::clamp<int64_t>(kBytes / (plane * step.channels), 1, shape.batch);
  const int64_t steps = (shape.batch + most - 1) / most;
  step.images = (shape.batch + steps - 1) / steps;
  return step;
}

Status run_pass(const AxisPass& pass, DType type, DeviceLimits limits, cudaStream_t stream) {
  if (line_fits(pass, type)) return run_line_pass(pass, stream);
  return run_matrix_pass(pass, type, limits, stream);
}

// Rows into the workspace, columns there and back, rows out: the middle pass carries the filter.
Status run_passes(const Transform& t, void* workspace, DeviceLimits limits, cudaStream_t stream) {
  const Shape s = t.shape;
  const DType acc = accumulator_type(t.in_type);
  const bool both = t.forward && t.inverse;
  const PassStep step = pass_step(s, t.in_type, both);
  AxisPass rows{};
  rows.size = s.width;
  rows.inner = step.channels;
  AxisPass columns{};
  columns.size = s.height;
  columns.inner = columns.in_pitch = columns.out_pitch = s.width * step.channels;
  columns.forward = t.forward;
  columns.inverse = t.inverse;
  columns.scale0 = scale_of(s.height, true, both);
  columns.scale = scale_of(s.height, false, both);
  columns.kind = t.kind;
  columns.width = s.width;
  columns.channels = step.channels;

  const int64_t image = s.height * s.width * s.channels;
  for (int64_t channel = 0; channel < s.channels; channel += step.channels) {
    Coefficients coefficients{};
    if (t.coefficients) {
      coefficients = *t.coefficients;
      coefficients.data = static_cast<const char*>(coefficients.data) +
                          channel * coefficients.stride_c * int64_t(accumulator_size(t.in_type));
      columns.coefficients = &coefficients;
    }
    for (int64_t begin = 0; begin < s.batch; begin += step.images) {
      const int64_t images = std::min(step.images, s.batch - begin);
      const int64_t offset = begin * image + channel;
      const void* in = static_cast<const char*>(t.in) + offset * int64_t(storage_size(t.in_type));
      void* out = static_cast<char*>(t.out) + offset * int64_t(storage_size(t.out_type));
      rows.outer = images * s.height;
      columns.outer = images;
      if (t.forward) {
        rows.in = in;
        rows.in_type = t.in_type;
        rows.in_pitch = s.channels;
        rows.out = workspace;
        rows.out_type = acc;
        rows.out_pitch = step.channels;
        rows.forward = true;
        rows.inverse = false;
        rows.scale0 = scale_of(s.width, true, both);
        rows.scale = scale_of(s.width, false, both);
        RSVHEAT_RETURN_IF_ERROR(run_pass(rows, acc, limits, stream));
      }
      columns.in = t.forward ? workspace : in;
      columns.in_type = t.forward ? acc : t.in_type;
      columns.out = t.inverse ? workspace : out;
      columns.out_type = t.inverse ? acc : t.out_type;
      RSVHEAT_RETURN_IF_ERROR(run_pass(columns, acc, limits, stream));
      if (t.inverse) {
        rows.in = workspace;
        rows.in_type = acc;
        rows.in_pitch = step.channels;
        rows.out = out;
        rows.out_type = t.out_type;
        rows.out_pitch = s.channels;
        rows.forward = false;
        rows.inverse = true;
        rows.scale0 = t.forward ? 1.0 : scale_of(s.width, true, false);
        rows.scale = t.forward ? 1.0 : scale_of(s.width, false, false);
        RSVHEAT_RETURN_IF_ERROR(run_pass(rows, acc, limits, stream));
      }
    }
  }
  return {};
}

}  // namespace

Status device_limits(DeviceLimits* limits) {
  int device = 0, per_block = 0, per_multiprocessor = 0;
  RSVHEAT_RETURN_IF_ERROR(check(cudaGetDevice(&device), "current device"));
  RSVHEAT_RETURN_IF_ERROR(
      check(cudaDeviceGetAttribute(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "device attributes"));
  RSVHEAT_RETURN_IF_ERROR(
      check(cudaDeviceGetAttribute(&per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                                   device),
            "device attributes"));
  *limits = {size_t(per_block), size_t(per_multiprocessor)};
  return {};
}

int channel_group(size_t bytes_per_channel, size_t fixed_bytes, int64_t channels,
                  DeviceLimits limits) {
  constexpr size_t kReservedPerBlock = 1024;
  const auto largest = [&](size_t bytes) {
    int group = 32;
    while (group >= 4 && fixed_bytes + group * bytes_per_channel > bytes) group /= 2;
    return group >= 4 ? group : 0;
  };
  int group = largest(limits.shared_per_multiprocessor / 2 - kReservedPerBlock);
  if (group == 0) group = largest(limits.shared_per_block);
  while (group > 4 && group / 2 >= channels) group /= 2;
  return group;
}

int block_threads(int64_t items) {
  constexpr int64_t kWarp = 32;
  const int64_t rounds = (items + kMaxThreads - 1) / kMaxThreads;
  const int64_t threads = (items + rounds - 1) / rounds;
  return int((threads + kWarp - 1) / kWarp * kWarp);
}

Status transform_workspace(Shape shape, DType type, Layout layout, bool round_trip,
                           cudaStream_t stream, size_t* bytes) {
  *bytes = 0;
  if (numel(shape) == 0) return {};
  DeviceLimits limits;
  RSVHEAT_RETURN_IF_ERROR(device_limits(&limits));
  switch (choose_path(shape, type, layout, limits)) {
    case Path::kPasses: {
      const PassStep step = pass_step(shape, type, round_trip);
      *bytes = step.images * shape.height * shape.width * step.channels * accumulator_size(type);
      return {};
    }
    case Path::kFft:
      return fft_workspace(shape, type, stream, bytes);
    default:
      return {};
  }
}

Status run_transform(const Transform& t, void* workspace, cudaStream_t stream) {
  if (numel(t.shape) == 0) return {};
  DeviceLimits limits;
  RSVHEAT_RETURN_IF_ERROR(device_limits(&limits));
  if (square_tile_fits(t, limits)) return run_square_tile(t, stream);
  switch (choose_path(t.shape, t.in_type, t.layout, limits)) {
    case Path::kTile:
      return run_tile(t, limits, stream);
    case Path::kMatrix:
      return run_matrix(t, limits, stream);
    case Path::kPasses:
      return run_passes(t, workspace, limits, stream);
    case Path::kFft:
      break;
  }
  return run_fft(t, workspace, stream);
}

}  // namespace rsvheat::cuda
