// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "boxes.h"
#include "boxes_device.h"

namespace rsvheat {
namespace cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    aligned_kernel(BoxTable rows, BoxTable columns, int64_t count, T* iou) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < count) iou[i] = T(intersection_over_union(rows.box(i), columns.box(i)));
}

// Threads over columns, blocks' y over rows.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    matrix_kernel(BoxTable rows, int64_t n, BoxTable columns, int64_t m, T* iou) {
  const int64_t j = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (j >= m) return;
  for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
    const bool apart = rows.apart(i, columns, j);
    iou[i * m + j] = apart ? T(0) : T(intersection_over_union(rows.box(i), columns.box(j)));
  }
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    aligned_gradient_kernel(const T* grad, BoxTable rows, BoxTable columns, int64_t count,
                            T* grad_rows) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  const BoxGradient<double> g = gradient_of_first(rows.box(i), columns.box(i), rows.at(10, i));
  const double scale = double(grad[i]);
  T* out = grad_rows + 5 * i;
  out[0] = T(g.x * scale);
  out[1] = T(g.y * scale);
  out[2] = T(g.w * scale);
  out[3] = T(g.h * scale);
  out[4] = T(g.angle * scale);
}

// A block for each row; its threads' sums are added in a fixed order.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    matrix_gradient_kernel(const T* grad, BoxTable rows, BoxTable columns, int64_t m,
                           T* grad_rows) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  double* parked = reinterpret_cast<double*>(shared);
  const int64_t row = blockIdx.x;
  double sums[5] = {};
  for (int64_t j = threadIdx.x; j < m; j += blockDim.x) {
    if (rows.apart(row, columns, j)) continue;
    const BoxGradient<double> g =
        gradient_of_first(rows.box(row), columns.box(j), rows.at(10, row));
    const double scale = double(grad[row * m + j]);
    sums[0] += g.x * scale;
    sums[1] += g.y * scale;
    sums[2] += g.w * scale;
    sums[3] += g.h * scale;
    sums[4] += g.angle * scale;
  }
  for (int f = 0; f < 5; ++f) {
    parked[threadIdx.x] = sums[f];
    for (int width = kMaxThreads / 2; width > 0; width /= 2) {
      __syncthreads();
      if (int(threadIdx.x) < width) parked[threadIdx.x] += parked[threadIdx.x + width];
    }
    if (threadIdx.x == 0) grad_rows[5 * row + f] = T(parked[0]);
    __syncthreads();
  }
}

struct Pair {
  BoxTable rows, columns;
};

Status prepare_pair(const void* boxes1, int64_t n, const void* boxes2, int64_t m, DType dtype,
                    void* workspace, cudaStream_t stream, Pair* pair) {
  auto* fields = static_cast<double*>(workspace);
  *pair = {{fields, n}, {fields + kFields * n, m}};
  RSVHEAT_RETURN_IF_ERROR(prepare_boxes(boxes1, nullptr, n, dtype, pair->rows, stream));
  return prepare_boxes(boxes2, nullptr, m, dtype, pair->columns, stream);
}

template <typename T>
Status run(const Pair& pair, int64_t n, int64_t m, bool aligned, T* iou, cudaStream_t stream) {
  const dim3 block(kMaxThreads);
  if (aligned) {
    return launch(aligned_kernel<T>, dim3(blocks_of(n, kMaxThreads)), block, 0, stream, pair.rows,
                  pair.columns, n, iou);
  }
  const dim3 grid(blocks_of(m, kMaxThreads), unsigned(std::min<int64_t>(n, 65535)));
  return launch(matrix_kernel<T>, grid, block, 0, stream, pair.rows, n, pair.columns, m, iou);
}

template <typename T>
Status run_backward(const T* grad, const Pair& pair, int64_t n, int64_t m, bool aligned,
                    T* grad_rows, cudaStream_t stream) {
  const dim3 block(kMaxThreads);
  if (aligned) {
    return launch(aligned_gradient_kernel<T>, dim3(blocks_of(n, kMaxThreads)), block, 0, stream,
                  grad, pair.rows, pair.columns, n, grad_rows);
  }
  return launch(matrix_gradient_kernel<T>, dim3(unsigned(n)), block, kMaxThreads * sizeof(double),
                stream, grad, pair.rows, pair.columns, m, grad_rows);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

size_t box_iou_rotated_cuda_workspace(int64_t n, int64_t m) {
  return table_bytes(n) + table_bytes(m);
}

Status box_iou_rotated_cuda(const void* boxes1, int64_t n, const void* boxes2, int64_t m,
                            bool aligned, void* iou, DType dtype, void* workspace,
                            cudaStream_t stream) {
  if (n == 0 || m == 0) return {};
  Pair pair;
  RSVHEAT_RETURN_IF_ERROR(prepare_pair(boxes1, n, boxes2, m, dtype, workspace, stream, &pair));
  if (dtype == DType::kFloat64) {
    return run(pair, n, m, aligned, static_cast<double*>(iou), stream);
  }
  return run(pair, n, m, aligned, static_cast<float*>(iou), stream);
}

Status box_iou_rotated_backward_cuda(const void* grad, const void* boxes1, int64_t n,
                                     const void* boxes2, int64_t m, bool aligned, void* grad_boxes1,
                                     DType dtype, void* workspace, cudaStream_t stream) {
  if (n == 0) return {};
  const size_t element = dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  if (m == 0) {
    return check(cudaMemsetAsync(grad_boxes1, 0, 5 * n * element, stream), "clearing the gradient");
  }
  Pair pair;
  RSVHEAT_RETURN_IF_ERROR(prepare_pair(boxes1, n, boxes2, m, dtype, workspace, stream, &pair));
  if (dtype == DType::kFloat64) {
    return run_backward(static_cast<const double*>(grad), pair, n, m, aligned,
                        static_cast<double*>(grad_boxes1), stream);
  }
  return run_backward(static_cast<const float*>(grad), pair, n, m, aligned,
                      static_cast<float*>(grad_boxes1), stream);
}

}  // namespace rsvheat
