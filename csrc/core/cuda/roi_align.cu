// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../roi.h"
#include "boxes.h"
#include "storage.h"

#define RSVHEAT_MATH RSVHEAT_DEVICE

namespace rsvheat {
namespace cuda {
namespace {

#include "../roi_align_math.inl"

// A thread block has kLanes threads along the channels and kRows along bins or pixels; a thread has
// kChannels channels at a time, so that the geometry is worked out once for all of them.
constexpr int kLanes = kMaxThreads < 256 ? 8 : 32;
constexpr int kRows = kMaxThreads / kLanes;
constexpr int kChannels = 4;

__global__ void __launch_bounds__(kMaxThreads)
    rois_kernel(const double* boxes, int64_t k, RoiGrid grid, int64_t batch, Roi* rois) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= k) return;
  rois[i] =
      make_roi(boxes + 6 * i, batch, grid.height, grid.width, grid.scale, grid.sampling_ratio);
}

struct AlignParams {
  const void* x;  // features, or the gradient of the result
  void* y;        // result, or the gradient of the features
  const Roi* rois;
  int64_t count;
  RoiGrid grid;
  Shape shape;
  Layout layout;
  DType type;

  // Channel `channel` of pixel `pixel` of image `image`, which has `pixels`; or of bins and boxes.
  RSVHEAT_DEVICE int64_t offset(int64_t image, int64_t pixels, int64_t pixel,
                                int64_t channel) const {
    return layout == Layout::kNhwc ? (image * pixels + pixel) * shape.channels + channel
                                   : (image * shape.channels + channel) * pixels + pixel;
  }
};

template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads) align_kernel(AlignParams p) {
  const int64_t bins = p.grid.height * p.grid.width, channels = p.shape.channels;
  const int64_t item = blockIdx.x * int64_t(kRows) + threadIdx.y;
  if (item >= p.count * bins) return;
  const Roi roi = p.rois[item / bins];
  const int64_t bin = item % bins, bin_y = bin / p.grid.width, bin_x = bin % p.grid.width;
  const Window window = image_window(roi, p.shape);
  const Range rows =
      samples_within(window.min_y, window.max_y, roi.start_y, roi.bin_h, bin_y, roi.samples_y);
  const Range columns =
      samples_within(window.min_x, window.max_x, roi.start_x, roi.bin_w, bin_x, roi.samples_x);
  const int64_t pixels = p.shape.height * p.shape.width;
  const double share = 1.0 / samples_in_bin(roi);
  for (int64_t first = threadIdx.x; first < channels; first += kLanes * kChannels) {
    Acc sums[kChannels] = {};
    if (roi.image >= 0) {
      for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
        const double y = along_axis(roi.start_y, roi.bin_h, bin_y, iy, roi.samples_y);
        for (int64_t ix = columns.begin; ix < columns.end; ++ix) {
          const double x = along_axis(roi.start_x, roi.bin_w, bin_x, ix, roi.samples_x);
          Corners c;
          if (!find_corners(roi, x, y, p.shape.height, p.shape.width, &c)) continue;
          const RoiSample<Acc> sample = sample_of<Acc>(c, p.shape.width, share);
          RSVHEAT_UNROLL
          for (int corner = 0; corner < 4; ++corner) {
            RSVHEAT_UNROLL
            for (int i = 0; i < kChannels; ++i) {
              const int64_t channel = first + i * kLanes;
              if (channel >= channels) continue;
              const int64_t at = p.offset(roi.image, pixels, sample.pixels[corner], channel);
              sums[i] += sample.weights[corner] * load<Acc>(p.x, p.type, at);
            }
          }
        }
      }
    }
    RSVHEAT_UNROLL
    for (int i = 0; i < kChannels; ++i) {
      const int64_t channel = first + i * kLanes;
      if (channel >= channels) continue;
      const Acc value = roi.image >= 0 ? sums[i] : Acc(NAN);
      store<Acc>(p.y, p.type, p.offset(item / bins, bins, bin, channel), value);
    }
  }
}

// The samples of a region along one axis, over all bins, between two positions.
RSVHEAT_DEVICE Range region_samples(double low, double high, double start, double bin_size,
                                    int64_t bins, int64_t samples) {
  return samples_within(low, high, start, bin_size * double(bins), 0, samples * bins);
}

// Gathers: a pixel looks for the samples that lie within one pixel of it.
template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads) align_backward_kernel(AlignParams p) {
  const int64_t pixels = p.shape.height * p.shape.width, channels = p.shape.channels;
  const int64_t item = blockIdx.x * int64_t(kRows) + threadIdx.y;
  if (item >= p.shape.batch * pixels) return;
  const int64_t image = item / pixels, pixel_y = item % pixels / p.shape.width;
  const int64_t pixel_x = item % p.shape.width;
  const double x = double(pixel_x), y = double(pixel_y);
  const int64_t bins = p.grid.height * p.grid.width;
  for (int64_t first = threadIdx.x; first < channels; first += kLanes * kChannels) {
    Acc sums[kChannels] = {};
    for (int64_t k = 0; k < p.count; ++k) {
      const Roi& roi = p.rois[k];
      if (roi.image != image || x < roi.min_x - 2 || x > roi.max_x + 2 || y < roi.min_y - 2 ||
          y > roi.max_y + 2) {
        continue;
      }
      const Window window = window_of(roi, x - 1, x + 1, y - 1, y + 1);
      const Range rows = region_samples(window.min_y, window.max_y, roi.start_y, roi.bin_h,
                                        p.grid.height, roi.samples_y);
      const Range columns = region_samples(window.min_x, window.max_x, roi.start_x, roi.bin_w,
                                           p.grid.width, roi.samples_x);
      const double share = 1.0 / samples_in_bin(roi);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const int64_t bin_y = row / roi.samples_y;
        const double along_y =
            along_axis(roi.start_y, roi.bin_h, bin_y, row % roi.samples_y, roi.samples_y);
        for (int64_t column = columns.begin; column < columns.end; ++column) {
          const int64_t bin_x = column / roi.samples_x;
          const double along_x =
              along_axis(roi.start_x, roi.bin_w, bin_x, column % roi.samples_x, roi.samples_x);
          Corners c;
          if (!find_corners(roi, along_x, along_y, p.shape.height, p.shape.width, &c)) continue;
          // At a border both corners are the same pixel, the second one with the weight 0.
          const double weight_y = (c.low_y == pixel_y ? c.low_weight_y : 0.0) +
                                  (c.high_y == pixel_y ? c.high_weight_y : 0.0);
          const double weight_x = (c.low_x == pixel_x ? c.low_weight_x : 0.0) +
                                  (c.high_x == pixel_x ? c.high_weight_x : 0.0);
          const Acc weight = Acc(weight_y * weight_x * share);
          if (weight == Acc(0)) continue;
          const int64_t bin = bin_y * p.grid.width + bin_x;
          RSVHEAT_UNROLL
          for (int i = 0; i < kChannels; ++i) {
            const int64_t channel = first + i * kLanes;
            if (channel >= channels) continue;
            sums[i] += weight * load<Acc>(p.x, p.type, p.offset(k, bins, bin, channel));
          }
        }
      }
    }
    RSVHEAT_UNROLL
    for (int i = 0; i < kChannels; ++i) {
      const int64_t channel = first + i * kLanes;
      if (channel >= channels) continue;
      store<Acc>(p.y, p.type, p.offset(image, pixels, item % pixels, channel), sums[i]);
    }
  }
}

// `items` bins or pixels; at most 2^31 thread blocks.
Status run(void (*kernel)(AlignParams), const AlignParams& params, const double* boxes,
           int64_t items, void* workspace, cudaStream_t stream) {
  if (params.count > 0) {
    const dim3 grid(unsigned((params.count + kMaxThreads - 1) / kMaxThreads));
    RSVHEAT_RETURN_IF_ERROR(launch(rois_kernel, grid, dim3(kMaxThreads), 0, stream, boxes,
                                   params.count, params.grid, params.shape.batch,
                                   static_cast<Roi*>(workspace)));
  }
  const int64_t blocks = (items + kRows - 1) / kRows;
  if (blocks > 0x7fffffff) return {"roi_align_rotated", "too many bins or pixels for one call"};
  return launch(kernel, dim3(unsigned(blocks)), dim3(kLanes, kRows), 0, stream, params);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

size_t roi_align_rotated_cuda_workspace(int64_t k) { return k * sizeof(Roi); }

Status roi_align_rotated_cuda(const void* x, const double* boxes, int64_t k, RoiGrid grid, void* y,
                              DType dtype, Shape shape, Layout layout, void* workspace,
                              cudaStream_t stream) {
  const int64_t items = k * grid.height * grid.width;
  if (items * shape.channels == 0) return {};
  const auto* rois = static_cast<const Roi*>(workspace);
  const AlignParams params{x, y, rois, k, grid, shape, layout, dtype};
  return run(dtype == DType::kFloat64 ? align_kernel<double> : align_kernel<float>, params, boxes,
             items, workspace, stream);
}

Status roi_align_rotated_backward_cuda(const void* grad_y, const double* boxes, int64_t k,
                                       RoiGrid grid, void* grad_x, DType dtype, Shape shape,
                                       Layout layout, void* workspace, cudaStream_t stream) {
  const int64_t items = shape.batch * shape.height * shape.width;
  if (items * shape.channels == 0) return {};
  const auto* rois = static_cast<const Roi*>(workspace);
  const AlignParams params{grad_y, grad_x, rois, k, grid, shape, layout, dtype};
  return run(
      dtype == DType::kFloat64 ? align_backward_kernel<double> : align_backward_kernel<float>,
      params, boxes, items, workspace, stream);
}

}  // namespace rsvheat
