// SPDX-License-Identifier: Apache-2.0
// Prepared boxes on the device. What includes this is compiled without contraction to fused
// multiply-adds (see ../boxes_math.inl).
#pragma once

#include <cstdint>

#include "../boxes.h"
#include "platform.h"

#define RSVHEAT_MATH RSVHEAT_DEVICE

namespace rsvheat::cuda {
namespace {

RSVHEAT_DEVICE double product_error(double a, double b, double product) {
  return fma(a, b, -product);
}
RSVHEAT_DEVICE bool any_lane(bool condition) { return condition; }

#include "../boxes_math.inl"

// Fields of `stride` values each, as in ../cpu/boxes_jobs.h.
inline constexpr int kFields = 11;
struct BoxTable {
  double* fields;
  int64_t stride;

  RSVHEAT_DEVICE double at(int field, int64_t i) const { return fields[field * stride + i]; }
  RSVHEAT_DEVICE Box<double> box(int64_t i) const {
    return {at(0, i), at(1, i), at(2, i), at(3, i), {at(4, i), at(5, i)}, {at(6, i), at(7, i)},
            at(8, i), at(9, i)};
  }
  RSVHEAT_DEVICE bool apart(int64_t i, const BoxTable& other, int64_t j) const {
    return apart_along_axes(at(0, i), at(1, i), at(8, i), at(9, i), other.at(0, j), other.at(1, j),
                            other.at(8, j), other.at(9, j));
  }
};

// As prepare_boxes in ../cpu/box_iou.inl; `order` may be null.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    prepare_kernel(const T* boxes, const int64_t* order, int64_t count, BoxTable table) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  const T* box = boxes + 5 * (order ? order[i] : i);
  double angle = double(box[4]);
  if (!(absolute_value(angle) <= kLargestPlainAngle)) angle = fmod(angle, 360.0);
  double exchanged;
  const Box<double> b =
      prepare(double(box[0]), double(box[1]), double(box[2]), double(box[3]), angle, &exchanged);
  const double values[kFields] = {b.x,        b.y,        b.half_w,   b.half_h,
                                  b.cos.high, b.cos.low,  b.sin.high, b.sin.low,
                                  b.extent_x, b.extent_y, exchanged};
  for (int f = 0; f < kFields; ++f) table.fields[f * table.stride + i] = values[f];
}

inline unsigned blocks_of(int64_t items, int64_t a_block) {
  return unsigned((items + a_block - 1) / a_block);
}

inline Status prepare_boxes(const void* boxes, const int64_t* order, int64_t count, DType dtype,
                            BoxTable table, cudaStream_t stream) {
  const dim3 grid(blocks_of(count, kMaxThreads)), block(kMaxThreads);
  if (dtype == DType::kFloat64) {
    return launch(prepare_kernel<double>, grid, block, 0, stream, static_cast<const double*>(boxes),
                  order, count, table);
  }
  return launch(prepare_kernel<float>, grid, block, 0, stream, static_cast<const float*>(boxes),
                order, count, table);
}

inline size_t table_bytes(int64_t count) { return kFields * count * sizeof(double); }

}  // namespace
}  // namespace rsvheat::cuda
