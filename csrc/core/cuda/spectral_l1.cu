// SPDX-License-Identifier: Apache-2.0
#include "spectral_l1.h"

#include <algorithm>

#include "fft_pipeline.h"

namespace rsvheat {
namespace cuda {
namespace {

template <typename Acc>
struct SignOperation {
  static constexpr bool kSums = true;
  double sum;
  RSVHEAT_DEVICE Acc operator()(Acc value, unsigned, int, int) {
    sum += double(value < 0 ? -value : value);
    return value > 0 ? Acc(1) : value < 0 ? Acc(-1) : value;  // NaN stays
  }
};

template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads)
    difference_kernel(const void* a, const void* b, DType type, int64_t count,
                      double* partial_sums) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  double sum = 0;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += stride) {
    const Acc d = load<Acc>(a, type, i) - load<Acc>(b, type, i);
    sum += double(d < 0 ? -d : d);
  }
  sum = block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) partial_sums[blockIdx.x] = sum;
}

// total (+)= the partial sums; then, for the last, its value in the result's type. One block.
template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads)
    total_kernel(const double* partial_sums, int count, double* total, bool first, bool last,
                 Acc* result) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial_sums[i];
  sum = block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x != 0) return;
  if (!first) sum += *total;
  *total = sum;
  if (last) *result = Acc(sum);
}

template <typename Acc>
Status run(const void* pred, const void* target, void* spatial_sum, void* spectral_sum, void* grad,
           DType dtype, Shape shape, void* workspace, cudaStream_t stream) {
  const FftPipeline f(shape, Layout::kNchw, dtype, stream);
  size_t pipeline_bytes = 0;
  RSVHEAT_RETURN_IF_ERROR(f.workspace(&pipeline_bytes));
  auto* partial_sums = reinterpret_cast<double*>(static_cast<char*>(workspace) + pipeline_bytes);
  double* total = partial_sums + kMaxBlocks;
  constexpr size_t kShared = kMaxThreads * sizeof(double);

  const unsigned blocks = grid_blocks(numel(shape));
  RSVHEAT_RETURN_IF_ERROR(launch(difference_kernel<Acc>, dim3(blocks), dim3(kMaxThreads), kShared,
                                 stream, pred, target, dtype, numel(shape), partial_sums));
  RSVHEAT_RETURN_IF_ERROR(launch(total_kernel<Acc>, dim3(1), dim3(kMaxThreads), kShared, stream,
                                 partial_sums, int(blocks), total, true, true,
                                 static_cast<Acc*>(spatial_sum)));

  CopyParams copy{};
  copy.in = pred;
  copy.buffer = workspace;
  copy.type = dtype;
  copy.view = f.view;
  for (int64_t begin = 0; begin < f.planes; begin += f.step) {
    copy.first_plane = begin;
    copy.planes = std::min(f.step, f.planes - begin);
    copy.subtract = target;
    copy.out = nullptr;
    RSVHEAT_RETURN_IF_ERROR((launch_copy<Acc, true>(copy, stream)));
    RSVHEAT_RETURN_IF_ERROR(f.fft(workspace, copy.planes, false));
    RSVHEAT_RETURN_IF_ERROR(launch_quads<Acc>(f, workspace, begin, copy.planes, true,
                                              grad != nullptr, SignOperation<Acc>{0.0},
                                              partial_sums));
    const int64_t quads = copy.planes * (f.view.height / 2 + 1) * (f.view.width / 2 + 1);
    RSVHEAT_RETURN_IF_ERROR(launch(total_kernel<Acc>, dim3(1), dim3(kMaxThreads), kShared, stream,
                                   partial_sums, int(grid_blocks(quads)), total, begin == 0,
                                   begin + copy.planes == f.planes,
                                   static_cast<Acc*>(spectral_sum)));
    if (!grad) continue;
    RSVHEAT_RETURN_IF_ERROR(f.fft(workspace, copy.planes, true));
    copy.subtract = nullptr;
    copy.out = grad;
    RSVHEAT_RETURN_IF_ERROR((launch_copy<Acc, false>(copy, stream)));
  }
  return {};
}

}  // namespace
}  // namespace cuda

using namespace cuda;

Status spectral_l1_cuda_workspace(Shape shape, DType dtype, cudaStream_t stream, size_t* bytes) {
  *bytes = 0;
  if (numel(shape) == 0) return {};
  RSVHEAT_RETURN_IF_ERROR(FftPipeline(shape, Layout::kNchw, dtype, stream).workspace(bytes));
  *bytes += (kMaxBlocks + 1) * sizeof(double);
  return {};
}

Status spectral_l1_cuda(const void* pred, const void* target, void* spatial_sum, void* spectral_sum,
                        void* grad, DType dtype, Shape shape, void* workspace,
                        cudaStream_t stream) {
  if (numel(shape) == 0) {
    const size_t size = accumulator_size(dtype);
    RSVHEAT_RETURN_IF_ERROR(
        check(cudaMemsetAsync(spatial_sum, 0, size, stream), "clearing the sums"));
    return check(cudaMemsetAsync(spectral_sum, 0, size, stream), "clearing the sums");
  }
  return (is_double(dtype) ? run<double> : run<float>)(pred, target, spatial_sum, spectral_sum,
                                                       grad, dtype, shape, workspace, stream);
}

}  // namespace rsvheat
