// SPDX-License-Identifier: Apache-2.0
#include "frequency_split.h"

#include <algorithm>

#include "fft_pipeline.h"

namespace rsvheat {
namespace cuda {
namespace {

// The sector of one sample, in the terms and with the tolerance of rsvheat::sector_ranges.
struct Sector {
  double radius_sq, cos_0, sin_0, cos_1, sin_1;
};
constexpr double kTolerance = 1e-9;

__global__ void __launch_bounds__(kMaxThreads)
    sector_kernel(const double* radius, const double* angles, Sector* sectors, int64_t samples,
                  double diagonal_sq) {
  const int64_t b = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (b >= samples) return;
  Sector& s = sectors[b];
  s.radius_sq = radius[b] * radius[b] * diagonal_sq * (1 + kTolerance);
  sincospi(angles[2 * b] / 180, &s.sin_0, &s.cos_0);
  sincospi(angles[2 * b + 1] / 180, &s.sin_1, &s.cos_1);
}

template <typename Acc>
struct MaskOperation {
  static constexpr bool kSums = false;
  const Sector* sectors;
  unsigned channels;
  RSVHEAT_DEVICE Acc operator()(Acc value, unsigned plane, int n, int m) const {
    const Sector s = sectors[plane / channels];
    const double y = n, x = m, slack = kTolerance * (y + x);
    const bool keep = (n == 0 && m == 0) ||
                      (y * y + x * x <= s.radius_sq && y * s.cos_0 - x * s.sin_0 >= -slack &&
                       y * s.cos_1 - x * s.sin_1 <= slack);
    return keep ? value : Acc(0);
  }
};

template <typename Acc>
Status run(const void* x, const double* radius, const double* angles, void* low, void* high,
           DType dtype, Shape shape, void* workspace, cudaStream_t stream) {
  const FftPipeline f(shape, Layout::kNchw, dtype, stream);
  size_t pipeline_bytes = 0;
  RSVHEAT_RETURN_IF_ERROR(f.workspace(&pipeline_bytes));
  auto* sectors = reinterpret_cast<Sector*>(static_cast<char*>(workspace) + pipeline_bytes);
  const double diagonal_sq = double(shape.height * shape.height + shape.width * shape.width);
  RSVHEAT_RETURN_IF_ERROR(
      launch(sector_kernel, dim3(unsigned((shape.batch + kMaxThreads - 1) / kMaxThreads)),
             dim3(kMaxThreads), 0, stream, radius, angles, sectors, shape.batch, diagonal_sq));

  const MaskOperation<Acc> operation{sectors, unsigned(shape.channels)};
  CopyParams copy{};
  copy.in = x;
  copy.buffer = workspace;
  copy.type = dtype;
  copy.view = f.view;
  for (int64_t begin = 0; begin < f.planes; begin += f.step) {
    copy.first_plane = begin;
    copy.planes = std::min(f.step, f.planes - begin);
    copy.out = copy.rest = nullptr;
    RSVHEAT_RETURN_IF_ERROR((launch_copy<Acc, true>(copy, stream)));
    RSVHEAT_RETURN_IF_ERROR(f.fft(workspace, copy.planes, false));
    RSVHEAT_RETURN_IF_ERROR(
        launch_quads<Acc>(f, workspace, begin, copy.planes, true, true, operation));
    RSVHEAT_RETURN_IF_ERROR(f.fft(workspace, copy.planes, true));
    copy.out = low;
    copy.rest = high;
    RSVHEAT_RETURN_IF_ERROR((launch_copy<Acc, false>(copy, stream)));
  }
  return {};
}

}  // namespace
}  // namespace cuda

using namespace cuda;

Status frequency_split_cuda_workspace(Shape shape, DType dtype, cudaStream_t stream,
                                      size_t* bytes) {
  *bytes = 0;
  if (numel(shape) == 0) return {};
  RSVHEAT_RETURN_IF_ERROR(FftPipeline(shape, Layout::kNchw, dtype, stream).workspace(bytes));
  *bytes += shape.batch * sizeof(Sector);
  return {};
}

Status frequency_split_cuda(const void* x, const double* radius, const double* angles, void* low,
                            void* high, DType dtype, Shape shape, void* workspace,
                            cudaStream_t stream) {
  if (numel(shape) == 0) return {};
  return (is_double(dtype) ? run<double> : run<float>)(x, radius, angles, low, high, dtype, shape,
                                                       workspace, stream);
}

}  // namespace rsvheat
