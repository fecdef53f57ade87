// SPDX-License-Identifier: Apache-2.0
#include "heat_conduction.h"

#include <algorithm>

#include "filter.h"
#include "transform.h"

namespace rsvheat {
namespace cuda {
namespace {

// Adds images' products of spectra, in index order, to grad[h, w, c]; the last chunk of the batch
// also multiplies by the filter's derivative.
template <typename Acc>
__global__ void __launch_bounds__(kMaxThreads)
    accumulate_kernel(const Acc* x, const Acc* grad_y, Acc* grad, int64_t images, int64_t points,
                      int width, int64_t channels, Filter<Acc> filter, bool first, bool last) {
  const int64_t point = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (point >= points) return;
  Acc sum = first ? Acc(0) : grad[point];
  for (int64_t i = point; i < images * points; i += points) sum += x[i] * grad_y[i];
  if (last && filter.diffusivity) {
    const int n = int(point / channels / width), m = int(point / channels % width);
    constexpr double kLn2 = 0.69314718055994530942;
    const Acc omega2 =
        Acc(kLn2) * (Acc(n) * Acc(n) * filter.omega_h2 + Acc(m) * Acc(m) * filter.omega_w2);
    sum *= -omega2 * filter.factor(*filter.at(n, m, point % channels), n, m);
  }
  grad[point] = sum;
}

// Images whose spectra are held at once.
int64_t images_per_step(Shape shape, DType dtype) {
  const int64_t image =
      shape.height * shape.width * shape.channels * int64_t(accumulator_size(dtype));
  return std::clamp<int64_t>(kCacheBytes / image, 1, shape.batch);
}

size_t spectrum_bytes(Shape step, DType dtype) {
  return align_up(numel(step) * accumulator_size(dtype));
}

template <typename Acc>
Status accumulate(const void* x, const void* grad_y, const Coefficients& coefficients,
                  Conduction kind, void* grad, Shape step, bool first, bool last,
                  cudaStream_t stream) {
  const int64_t points = step.height * step.width * step.channels;
  const unsigned blocks = unsigned((points + kMaxThreads - 1) / kMaxThreads);
  return launch(accumulate_kernel<Acc>, dim3(blocks), dim3(kMaxThreads), 0, stream,
                static_cast<const Acc*>(x), static_cast<const Acc*>(grad_y),
                static_cast<Acc*>(grad), step.batch, points, int(step.width), step.channels,
                make_filter<Acc>(&coefficients, kind, step.height, step.width), first, last);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

Status heat_conduction_cuda_workspace(Shape shape, DType dtype, cudaStream_t stream,
                                      size_t* bytes) {
  return transform_workspace(shape, dtype, Layout::kNhwc, stream, bytes);
}

Status heat_conduction_cuda(const void* x, Coefficients coefficients, Conduction kind, void* y,
                            DType dtype, Shape shape, void* workspace, cudaStream_t stream) {
  return run_transform({x, dtype, y, dtype, shape, Layout::kNhwc, true, true, &coefficients, kind},
                       workspace, stream);
}

Status heat_conduction_backward_cuda_workspace(Shape shape, DType dtype, bool need_coefficients,
                                               cudaStream_t stream, size_t* bytes) {
  if (!need_coefficients || numel(shape) == 0)
    return transform_workspace(shape, dtype, Layout::kNhwc, stream, bytes);
  Shape step = shape;
  step.batch = images_per_step(shape, dtype);
  RSVHEAT_RETURN_IF_ERROR(transform_workspace(step, dtype, Layout::kNhwc, stream, bytes));
  if (shape.batch % step.batch) {  // the last step may need its own plans
    Shape rest = shape;
    rest.batch = shape.batch % step.batch;
    size_t rest_bytes = 0;
    RSVHEAT_RETURN_IF_ERROR(transform_workspace(rest, dtype, Layout::kNhwc, stream, &rest_bytes));
    *bytes = std::max(*bytes, rest_bytes);
  }
  *bytes += 2 * spectrum_bytes(step, dtype);
  return {};
}

Status heat_conduction_backward_cuda(const void* grad_y, const void* x, Coefficients coefficients,
                                     Conduction kind, void* grad_x, void* grad_coefficients,
                                     DType dtype, Shape shape, void* workspace,
                                     cudaStream_t stream) {
  if (!grad_coefficients) {
    if (!grad_x) return {};
    return heat_conduction_cuda(grad_y, coefficients, kind, grad_x, dtype, shape, workspace,
                                stream);
  }
  const DType acc = accumulator_type(dtype);
  if (numel(shape) == 0) {
    const int64_t points = shape.height * shape.width * shape.channels;
    if (points == 0) return {};
    return check(cudaMemsetAsync(grad_coefficients, 0, points * accumulator_size(dtype), stream),
                 "clearing the gradient");
  }

  // The spectra of x and grad_y give the coefficients' gradient; the filtered inverse of the latter
  // is grad_x.
  Shape step = shape;
  step.batch = images_per_step(shape, dtype);
  char* x_spectrum = static_cast<char*>(workspace);
  char* grad_spectrum = x_spectrum + spectrum_bytes(step, dtype);
  void* scratch = grad_spectrum + spectrum_bytes(step, dtype);
  const int64_t image_bytes =
      shape.height * shape.width * shape.channels * int64_t(storage_size(dtype));
  for (int64_t begin = 0; begin < shape.batch; begin += step.batch) {
    step.batch = std::min(step.batch, shape.batch - begin);
    const int64_t offset = begin * image_bytes;
    const bool last = begin + step.batch == shape.batch;
    RSVHEAT_RETURN_IF_ERROR(run_transform({static_cast<const char*>(x) + offset, dtype, x_spectrum,
                                           acc, step, Layout::kNhwc, true, false},
                                          scratch, stream));
    RSVHEAT_RETURN_IF_ERROR(run_transform({static_cast<const char*>(grad_y) + offset, dtype,
                                           grad_spectrum, acc, step, Layout::kNhwc, true, false},
                                          scratch, stream));
    RSVHEAT_RETURN_IF_ERROR(
        (is_double(dtype) ? accumulate<double>
                          : accumulate<float>)(x_spectrum, grad_spectrum, coefficients, kind,
                                               grad_coefficients, step, begin == 0, last, stream));
    if (grad_x)
      RSVHEAT_RETURN_IF_ERROR(
          run_transform({grad_spectrum, acc, static_cast<char*>(grad_x) + offset, dtype, step,
                         Layout::kNhwc, false, true, &coefficients, kind},
                        scratch, stream));
  }
  return {};
}

}  // namespace rsvheat
