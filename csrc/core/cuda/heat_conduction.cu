// SPDX-License-Identifier: Apache-2.0
#include "heat_conduction.h"

#include <algorithm>

#include "filter.h"
#include "transform.h"

namespace rsvheat {
namespace cuda {
namespace {

// d factor / d coefficient of a coefficient's filter.
template <typename Acc>
RSVHEAT_DEVICE Acc derivative(const Filter<Acc>& filter, int n, int m, int64_t channel) {
  if (!filter.diffusivity) return Acc(1);
  constexpr double kLn2 = 0.69314718055994530942;
  const Acc omega2 =
      Acc(kLn2) * (Acc(n) * Acc(n) * filter.omega_h2 + Acc(m) * Acc(m) * filter.omega_w2);
  return -omega2 * filter.factor(*filter.at(n, m, channel), n, m);
}

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
  if (last)
    sum *= derivative(filter, int(point / channels / width), int(point / channels % width),
                      point % channels);
  grad[point] = sum;
}

// grad[h, w, c]: the sum of slices' parts, in their order, by the filter's derivative and the scale
// of both spectra.
__global__ void __launch_bounds__(kMaxThreads)
    add_slices_kernel(const float* parts, SquareSlices slices, float* grad, int size,
                      int64_t channels, Filter<float> filter) {
  const int64_t point = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  const int64_t pixels = int64_t(size) * size, pixel = point / channels, c = point % channels;
  if (pixel >= pixels) return;
  const float* part = parts + (c / slices.group * pixels + pixel) * slices.group + c % slices.group;
  const int64_t stride = slices.groups * pixels * slices.group;
  float sum = 0;
  for (int64_t s = 0; s < slices.count; ++s) sum += part[s * stride];
  const int h = int(pixel / size), w = int(pixel % size);
  const float scale = float(h == 0 ? 1 : 2) / float(size) * (float(w == 0 ? 1 : 2) / float(size));
  grad[point] = sum * (scale * derivative(filter, h, w, c));
}

size_t parts_bytes(Shape shape, DType dtype) {
  const SquareSlices slices = square_slices(shape, dtype);
  return slices.count * slices.groups * shape.height * shape.width * slices.group * sizeof(float);
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
  return transform_workspace(shape, dtype, Layout::kNhwc, /*round_trip=*/true, stream, bytes);
}

Status heat_conduction_cuda(const void* x, Coefficients coefficients, Conduction kind, void* y,
                            DType dtype, Shape shape, void* workspace, cudaStream_t stream) {
  return run_transform({x, dtype, y, dtype, shape, Layout::kNhwc, true, true, &coefficients, kind},
                       workspace, stream);
}

bool heat_conduction_vectors(const void* grad_y, const void* x, Coefficients coefficients,
                             const void* grad_x) {
  return square_operands(grad_y, grad_x, coefficients) && square_operands(x, x, coefficients);
}

Status heat_conduction_backward_cuda_workspace(Shape shape, DType dtype, bool need_coefficients,
                                               bool vectors, cudaStream_t stream, size_t* bytes) {
  if (!need_coefficients || numel(shape) == 0)
    return heat_conduction_cuda_workspace(shape, dtype, stream, bytes);
  DeviceLimits limits;
  RSVHEAT_RETURN_IF_ERROR(device_limits(&limits));
  if (vectors && square_gradients_fit(shape, dtype, limits)) {
    *bytes = parts_bytes(shape, dtype);
    return {};
  }
  const auto one_direction = [&](int64_t batch, size_t* needed) {
    Shape step = shape;
    step.batch = batch;
    return transform_workspace(step, dtype, Layout::kNhwc, /*round_trip=*/false, stream, needed);
  };
  Shape step = shape;
  step.batch = images_per_step(shape, dtype);
  RSVHEAT_RETURN_IF_ERROR(one_direction(step.batch, bytes));
  if (shape.batch % step.batch) {  // the last step may need its own plans
    size_t rest_bytes = 0;
    RSVHEAT_RETURN_IF_ERROR(one_direction(shape.batch % step.batch, &rest_bytes));
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

  DeviceLimits limits;
  RSVHEAT_RETURN_IF_ERROR(device_limits(&limits));
  if (heat_conduction_vectors(grad_y, x, coefficients, grad_x) &&
      square_gradients_fit(shape, dtype, limits)) {
    auto* parts = static_cast<float*>(workspace);
    RSVHEAT_RETURN_IF_ERROR(
        run_square_gradients(grad_y, x, coefficients, kind, grad_x, parts, dtype, shape, stream));
    const int64_t points = shape.height * shape.width * shape.channels;
    return launch(add_slices_kernel, dim3(unsigned((points + kMaxThreads - 1) / kMaxThreads)),
                  dim3(kMaxThreads), 0, stream, static_cast<const float*>(parts),
                  square_slices(shape, dtype), static_cast<float*>(grad_coefficients),
                  int(shape.height), shape.channels,
                  make_filter<float>(&coefficients, kind, shape.height, shape.width));
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
