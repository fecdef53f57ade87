// SPDX-License-Identifier: Apache-2.0
// What boxes.cpp hands to the kernels on rotated boxes of the chosen instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../boxes.h"
#include "../roi.h"

namespace rsvheat {

// Prepared boxes (boxes_math.inl): kBoxFields arrays of `stride` float64, filled up to a multiple
// of kBoxPadding with boxes that are apart from every other.
inline constexpr int kBoxFields = 11;
inline constexpr int64_t kBoxPadding = 8;  // lanes of the widest register
struct BoxTable {
  double* fields;
  int64_t stride, count;

  double* field(int index) const { return fields + index * stride; }
};

struct PrepareJob {
  const void* boxes;     // (count, 5)
  const int64_t* order;  // which box comes first, second, ...; null: as they lie
  BoxTable table;
};

// Columns that one work item of the matrix kernel looks at.
inline constexpr int64_t kColumns = 1024;

struct IouJob {
  BoxTable rows, columns;
  void* iou;
};

struct IouBackwardJob {
  BoxTable rows, columns;
  bool aligned;
  const void* grad;
  void* grad_rows;
};

// Boxes for the search of those near a given one: centers, extents, labels, and their places in the
// order of the scores. Filled up to whole registers with boxes that are apart from every other.
struct NearBoxes {
  const double *x, *y, *extent_x, *extent_y, *label;
  const int32_t* rank;
  int64_t count;
};
// Bounds of kGroup consecutive boxes, or groups, each.
inline constexpr int64_t kGroup = 16;
struct GroupBounds {
  const double *min_x, *max_x, *min_y, *max_y, *min_label, *max_label;
  int64_t count;  // a multiple of kGroup; the last ones may be empty and touch nothing
};
struct NmsJob {
  BoxTable table;        // in the order of the scores
  const double* labels;  // consecutive numbers, in that order
  double threshold;
  // The boxes that stay: sorted by place, in groups and groups of groups, and the latest ones.
  NearBoxes kept;
  GroupBounds groups, supergroups;
  NearBoxes latest;
  // The block of boxes at work.
  NearBoxes block;
  bool* suppressed;    // of each block member, by a box that stays
  uint64_t* overlaps;  // (block.count, words): which later members each suppresses
  int64_t words;
};

struct RoiAlignJob {
  const Roi* rois;
  int64_t count;
  RoiGrid grid;
  Shape shape;
  const void* x;  // features, or the gradient of the result
  void* y;        // result, or the gradient of the features
  Layout layout;  // of both
  std::byte* scratch;
  size_t scratch_bytes;    // a thread
  int64_t block_channels;  // of a work item, where that is not all channels
  // NCHW features resampled in NHWC: (H, W, C) of `image` in the compute type, copied by to_pixels.
  void* pixels;
  int64_t image;
  // NCHW features resampled plane by plane: the points of all bins, RoiSample of the compute type.
  const void* samples;
  const int64_t* bin_begins;  // (count * bins + 1)
};

// By DType. Work items [begin, end) are independent; `slot` is the thread's part of the scratch.
struct RoiAlignKernels {
  using Kernel = void (*)(const RoiAlignJob&, int64_t begin, int64_t end, int64_t slot);
  Kernel forward;          // NHWC: (box, row of bins)
  Kernel to_pixels;        // (H * W in groups of kPixels)
  Kernel forward_pixels;   // boxes of `image`, from `pixels` to NCHW
  Kernel forward_planes;   // NCHW: (box, block of channels)
  Kernel backward;         // either layout: (image, block of channels)
  Kernel backward_planes;  // NCHW: channels of `image`
};
inline constexpr int64_t kPixels = 256;

// float32 and float64; for RoIAlign by DType. Work items [begin, end) are independent.
struct BoxKernels {
  size_t vector_bytes;
  void (*prepare[2])(const PrepareJob&, int64_t begin, int64_t end);  // groups of kBoxPadding
  void (*iou_matrix[2])(const IouJob&, int64_t begin, int64_t end);   // (row, kColumns)
  void (*iou_aligned[2])(const IouJob&, int64_t begin, int64_t end);  // groups of kBoxPadding
  void (*iou_backward[2])(const IouBackwardJob&, int64_t begin, int64_t end);  // rows
  void (*nms_against_kept[2])(const NmsJob&, int64_t begin, int64_t end);      // block members
  void (*nms_within_block[2])(const NmsJob&, int64_t begin, int64_t end);      // block members
  RoiAlignKernels roi_align[4];
};

extern const BoxKernels kBoxKernelsGeneric;
extern const BoxKernels kBoxKernelsAvx2;
extern const BoxKernels kBoxKernelsAvx512;

}  // namespace rsvheat
