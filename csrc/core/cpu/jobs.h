// SPDX-License-Identifier: Apache-2.0
// What the entry points hand to the kernels of the chosen instruction set: operands, tables and
// work space, prepared where the C++ library may be used freely.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../frequency_split.h"
#include "../heat_conduction.h"
#include "../layer_norm.h"
#include "../spatial_correction.h"
#include "../types.h"

namespace rsvheat {

// Work space: `slots` equal, cache-line aligned parts, of which at most one thread uses each at a
// time, and a part that all threads share.
struct Workspace {
  std::byte* data;
  size_t slot_bytes;
  int slots;
  std::byte* shared;
};

// Extents of the tile that holds an item's plane, or a strip of `columns` pixel columns of it, in
// rows and registers. A row of an NHWC tile has `group` registers a pixel, a row of an NCHW plane
// is cut into registers.
struct Tile {
  int64_t rows, row_registers, group;
  int64_t columns;
  int64_t lines;   // the registers of the longest row or column
  int64_t length;  // of the longest line
};

struct Job {
  Shape shape;
  Tile tile;
  const void *height_plan, *width_plan;  // const Plan<T>*, T the compute type
  Workspace workspace;
  const ParallelFor* parallel;
};

struct DctJob : Job {
  const void* x;
  void* y;
  bool inverse;
};

struct HeatJob : Job {
  const void* x;
  Coefficients coefficients;
  Conduction kind;
  void* y;
};

struct HeatBackwardJob : Job {
  const void* grad_y;
  const void* x;
  Coefficients coefficients;
  Conduction kind;
  void* grad_x;
  void* grad_coefficients;
};

struct SplitJob : Job {
  const void* x;
  const ColumnRange* ranges;  // (batch, height)
  void* low;
  void* high;
};

struct SpectralL1Job : Job {
  const void* pred;
  const void* target;
  // Partial sums of |d| by row group and of |dct2d(d)| by column group, (batch * channels, row
  // groups + column groups): a group is as many rows or columns as a register has lanes.
  double* partial_sums;
  void* grad;
};

struct NormJob {
  NormStep step;
  const void* x;
  const void* other;
  NormParameters norm;
  void* y;
  int64_t rows, channels;
  const ParallelFor* parallel;
};

struct NormBackwardJob {
  NormStep step;
  const void* grad_y;
  const void* x;
  const void* other;
  NormParameters norm;
  void* grad_x;
  void* grad_other;
  void* grad_weight;
  void* grad_bias;
  int64_t rows, channels;
  int64_t blocks;      // of rows
  void* partial_sums;  // (blocks, 3, channels) in the compute type
  const ParallelFor* parallel;
};

struct CorrectionJob {
  Shape shape;
  const void* x;
  CorrectionParameters parameters;
  void* y;
  Workspace workspace;
  const ParallelFor* parallel;
};

struct CorrectionBackwardJob : CorrectionJob {
  const void* grad_y;
  CorrectionGradients gradients;
  int64_t blocks;      // of rows
  void* partial_sums;  // (blocks, 12, padded channels) in the compute type
};

// Kernels of one instruction set, by DType. Slot sizes are in vector registers of vector_bytes.
struct Kernels {
  size_t vector_bytes;
  void (*dct2d_nhwc[4])(const DctJob&);
  void (*dct2d_nchw[4])(const DctJob&);
  bool (*heat_conduction[4])(const HeatJob&);
  void (*heat_conduction_backward[4])(const HeatBackwardJob&);
  void (*frequency_split[4])(const SplitJob&);
  void (*spectral_l1[4])(const SpectralL1Job&);
  void (*layer_norm[4])(const NormJob&);
  void (*layer_norm_backward[4])(const NormBackwardJob&);
  void (*spatial_correction_conv[4])(const CorrectionJob&);
  void (*spatial_correction_conv_backward[4])(const CorrectionBackwardJob&);
};

extern const Kernels kKernelsGeneric;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;

// Odd row lengths keep the elements of a column on different cache sets.
constexpr Tile make_nhwc_tile(Shape s, int64_t group, int64_t columns) {
  const int64_t length = s.height > s.width ? s.height : s.width, row = columns * group;
  return {s.height, row | 1, group, columns, length > row ? length : row, length};
}
constexpr Tile make_nchw_tile(Shape s, int64_t lanes) {
  const int64_t length = s.height > s.width ? s.height : s.width;
  return {s.height, ((s.width + lanes - 1) / lanes) | 1, 1, s.width, length + lanes - 1, length};
}
// Whether a tile holds a strip of the plane only, and the registers of a plane in the work space.
constexpr bool in_strips(Shape s, Tile t) { return t.columns < s.width; }
constexpr int64_t plane_row_registers(Shape s, Tile t) { return (s.width * t.group) | 1; }
constexpr int64_t plane_registers(Shape s, Tile t) { return s.height * plane_row_registers(s, t); }
constexpr int64_t tile_registers(Tile t) { return t.rows * t.row_registers; }
constexpr int64_t transform_scratch_registers(int64_t n) { return 4 * n + 64; }
constexpr int64_t line_registers(Tile t) {
  return 2 * t.lines + transform_scratch_registers(t.length);
}

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Work space of a thread in elements: `pixel` is the channels rounded up to whole registers.
constexpr int64_t ring_elements(int64_t width, int64_t pixel) { return 3 * (width + 2) * pixel; }
constexpr int64_t correction_elements(int64_t width, int64_t pixel) {
  return 10 * pixel + ring_elements(width, pixel);
}
constexpr int64_t correction_backward_elements(int64_t width, int64_t pixel) {
  return 20 * pixel + 2 * ring_elements(width, pixel) + width * pixel;
}

}  // namespace rsvheat
