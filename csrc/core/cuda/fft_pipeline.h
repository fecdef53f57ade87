// SPDX-License-Identifier: Apache-2.0
// Two-dimensional DCTs by real FFTs (Makhoul 1980). Per axis, with v the even-indexed points
// followed by the odd-indexed ones backwards and V its DFT, X[n] = Re(exp(-i pi n / 2N) V[n]); the
// same along both axes gives, with a_n = exp(-i pi n / 2H) and a_m = exp(-i pi m / 2W),
//   U[n,m] = (a_n V[n,m] + conj(a_n) V[H-n,m]) / 2,  X[n,m] = Re(a_m U[n,m]),
//   X[n,W-m] = -Im(a_m U[n,m]),
// and its inverse
//   a_m U[n,m] = X[n,m] - i X[n,W-m],  V[n,m] = conj(a_n) (U[n,m] - i U[H-n,m]).
// So one thread turns the pair V[n,m], V[H-n,m] into the four coefficients (+-n, +-m), works on
// them, and turns them back, in place. Between the steps the coefficients X[n,m], X[n,W-m] lie in
// the real and imaginary part of V[n,m].
//
// Steps: pack (any storage type and layout -> planes), cuFFT, quads, cuFFT, unpack.
#pragma once

#include <algorithm>
#include <type_traits>

#include "plan_cache.h"
#include "storage.h"
#include "transform.h"

namespace rsvheat::cuda {

// Planes of images in memory, and in the work buffer. An image of width 1 is taken as one of height
// 1: its elements lie the same way.
struct PlaneView {
  int height, width;
  bool swapped;  // height and width are the image's width and height
  bool nhwc;
  int64_t channels;
  int row;  // reals in a padded row of the work buffer

  RSVHEAT_DEVICE int64_t element(int64_t plane, int64_t pixel) const {
    const int64_t pixels = int64_t(height) * width;
    return nhwc ? (plane / channels * pixels + pixel) * channels + plane % channels
                : plane * pixels + pixel;
  }
  // Where the work buffer holds a pixel or, if `spectrum`, a coefficient.
  RSVHEAT_DEVICE int64_t slot(int64_t plane, int pixel, bool spectrum) const {
    const int h = pixel / width, w = pixel % width;
    const int r = spectrum ? h : permuted(h, height);
    const int c = !spectrum ? permuted(w, width) : w <= width / 2 ? 2 * w : 2 * (width - w) + 1;
    return (plane * height + r) * row + c;
  }
  RSVHEAT_DEVICE static int permuted(int i, int size) { return i % 2 ? size - (i + 1) / 2 : i / 2; }
};

inline PlaneView plane_view(Shape shape, Layout layout) {
  const bool swapped = shape.width == 1;
  const int height = int(swapped ? shape.width : shape.height);
  const int width = int(swapped ? shape.height : shape.width);
  return {height, width, swapped, layout == Layout::kNhwc, shape.channels, 2 * (width / 2 + 1)};
}

// The planes one step of a pipeline takes.
inline int64_t planes_per_step(const PlaneView& view, int64_t planes, DType type) {
  const int64_t plane = int64_t(view.height) * view.row * int64_t(accumulator_size(type));
  constexpr int64_t kMaxPlanes = 1 << 20;  // a grid's second extent is limited to 65535 tiles
  return std::clamp<int64_t>(kCacheBytes / plane, 1, std::min(planes, kMaxPlanes));
}

// The work buffer, the plans and cuFFT's work area of a pipeline.
struct FftPipeline {
  PlaneView view;
  int64_t planes, step;
  DType type;
  cudaStream_t stream;

  FftPipeline(Shape shape, Layout layout, DType type, cudaStream_t stream)
      : view(plane_view(shape, layout)),
        planes(shape.batch * shape.channels),
        step(planes_per_step(view, planes, type)),
        type(type),
        stream(stream) {}

  size_t buffer_bytes() const {
    return align_up(size_t(step) * view.height * view.row * accumulator_size(type));
  }
  // Buffer and cuFFT's work area, at the start of the workspace.
  Status workspace(size_t* bytes) const {
    size_t work = 0;
    for (const int64_t batch : {step, planes % step}) {
      for (const bool inverse : {false, true}) {
        if (batch == 0) continue;
        std::shared_ptr<FftPlan> plan;
        RSVHEAT_RETURN_IF_ERROR(find(batch, inverse, &plan));
        if (plan->work_bytes() > work) work = plan->work_bytes();
      }
    }
    *bytes = buffer_bytes() + align_up(work);
    return {};
  }
  Status fft(void* workspace, int64_t batch, bool inverse) const {
    std::shared_ptr<FftPlan> plan;
    RSVHEAT_RETURN_IF_ERROR(find(batch, inverse, &plan));
    return plan->run(workspace, static_cast<char*>(workspace) + buffer_bytes(), stream);
  }

 private:
  Status find(int64_t batch, bool inverse, std::shared_ptr<FftPlan>* plan) const {
    int device = 0;
    RSVHEAT_RETURN_IF_ERROR(check(cudaGetDevice(&device), "current device"));
    return find_fft_plan({device, view.height, view.width, int(batch), is_double(type), inverse},
                         stream, plan);
  }
};

// ---- Pack and unpack ----------------------------------------------------------------------------

inline constexpr int kTransposeTile = 32;

struct CopyParams {
  const void* in;        // pack: x. unpack of a band: x, to form the other band
  const void* subtract;  // pack: taken from `in`; or null
  void* out;             // unpack: may be null if `rest` is not
  void* rest;            // unpack: in - out; or null
  void* buffer;
  DType type;
  int64_t first_plane, planes;
  bool spectrum;
  PlaneView view;
};

// Copies plane tiles of 32 pixels x 32 planes; NHWC ones are transposed in shared memory, so that
// both sides are read and written along their contiguous index.
template <typename Acc, bool kPack>
__global__ void __launch_bounds__(kTransposeTile* kTransposeRows) copy_kernel(CopyParams p) {
  constexpr int kTile = kTransposeTile;
  RSVHEAT_DYNAMIC_SHARED(shared);
  Acc* tile = reinterpret_cast<Acc*>(shared);  // [plane][pixel], rows padded by one
  Acc* buffer = static_cast<Acc*>(p.buffer);
  const int pixels = p.view.height * p.view.width;
  const int pixel_begin = blockIdx.x * kTile;
  const int64_t plane_begin = int64_t(blockIdx.y) * kTile;

  // Element of the image <-> value, for one pixel of one plane.
  const auto read = [&](int64_t plane, int pixel) {
    const int64_t at = p.view.element(p.first_plane + plane, pixel);
    Acc value = load<Acc>(p.in, p.type, at);
    if (p.subtract) value -= load<Acc>(p.subtract, p.type, at);
    return value;
  };
  const auto write = [&](int64_t plane, int pixel, Acc value) {
    const int64_t at = p.view.element(p.first_plane + plane, pixel);
    if (p.out) store(p.out, p.type, at, value);
    if (!p.rest) return;
    visit_storage<Acc>(p.rest, p.type, [&](auto* rest) {
      // The rest completes what `out` holds after rounding.
      std::remove_reference_t<decltype(rest[at])> rounded;
      assign(rounded, value);
      assign(rest[at], load<Acc>(p.in, p.type, at) - to_float(rounded));
    });
  };

  if (!p.view.nhwc) {
    const int pixel = pixel_begin + threadIdx.x;
    for (int j = threadIdx.y; j < kTile; j += blockDim.y) {
      const int64_t plane = plane_begin + j;
      if (pixel >= pixels || plane >= p.planes) continue;
      Acc& slot = buffer[p.view.slot(plane, pixel, p.spectrum)];
      if (kPack)
        slot = read(plane, pixel);
      else
        write(plane, pixel, slot);
    }
    return;
  }
  for (int half = 0; half < 2; ++half) {
    // Threads run along planes on the image's side (first when packing), along pixels on the other.
    const bool image_side = (half == 0) == kPack;
    for (int j = threadIdx.y; j < kTile; j += blockDim.y) {
      const int i = image_side ? j : threadIdx.x, k = image_side ? threadIdx.x : j;
      const int pixel = pixel_begin + i;
      const int64_t plane = plane_begin + k;
      if (pixel >= pixels || plane >= p.planes) continue;
      Acc& parked = tile[k * (kTile + 1) + i];
      if (image_side && kPack) parked = read(plane, pixel);
      if (image_side && !kPack) write(plane, pixel, parked);
      Acc& slot = buffer[p.view.slot(plane, pixel, p.spectrum)];
      if (!image_side && kPack) slot = parked;
      if (!image_side && !kPack) parked = slot;
    }
    if (half == 0) __syncthreads();
  }
}

template <typename Acc, bool kPack>
Status launch_copy(const CopyParams& p, cudaStream_t stream) {
  const int64_t pixels = int64_t(p.view.height) * p.view.width;
  const auto tiles = [](int64_t n) { return unsigned((n + kTransposeTile - 1) / kTransposeTile); };
  const size_t shared = p.view.nhwc ? kTransposeTile * (kTransposeTile + 1) * sizeof(Acc) : 0;
  return launch(copy_kernel<Acc, kPack>, dim3(tiles(pixels), tiles(p.planes)),
                dim3(kTransposeTile, kTransposeRows), shared, stream, p);
}

// ---- Quads --------------------------------------------------------------------------------------

// A fixed number of blocks at most, so that sums over blocks are a fixed partition.
inline constexpr int kMaxBlocks = 1024;

inline unsigned grid_blocks(int64_t items) {
  const int64_t blocks = (items + kMaxThreads - 1) / kMaxThreads;
  return unsigned(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// Adds the threads' values in a fixed order, for thread 0; the others get 0. `parked` is shared
// memory for kMaxThreads values.
RSVHEAT_DEVICE double block_sum(double value, double* parked) {
  parked[threadIdx.x] = value;
  for (int width = kMaxThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < width) parked[threadIdx.x] += parked[threadIdx.x + width];
  }
  return threadIdx.x == 0 ? parked[0] : 0;
}

template <typename Acc>
struct Complex {
  Acc re, im;
};
template <typename Acc>
RSVHEAT_DEVICE Complex<Acc> times(Complex<Acc> a, Complex<Acc> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <typename Acc>
RSVHEAT_DEVICE Complex<Acc> conj_times(Complex<Acc> a, Complex<Acc> b) {  // conj(a) b
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// exp(-i pi n / (2 size))
RSVHEAT_DEVICE Complex<float> quarter_turn(int n, int size, float) {
  Complex<float> turn;
  sincospif(float(n) / float(2 * size), &turn.im, &turn.re);
  turn.im = -turn.im;
  return turn;
}
RSVHEAT_DEVICE Complex<double> quarter_turn(int n, int size, double) {
  Complex<double> turn;
  sincospi(double(n) / double(2 * size), &turn.im, &turn.re);
  turn.im = -turn.im;
  return turn;
}

template <typename Acc>
struct QuadParams {
  void* buffer;
  int64_t planes, first_plane;
  PlaneView view;
  bool forward, inverse;
  // Of coefficient 0 and of the others, for each direction and axis.
  Acc forward_h0, forward_h, forward_w0, forward_w;
  Acc inverse_h0, inverse_h, inverse_w0, inverse_w;
  double* partial_sums;  // one per block, if the operation sums
};

// Operation: `Acc operator()(Acc coefficient, unsigned plane, int n, int m)` on orthonormal
// coefficients of the image's plane, and `double sum`, which goes to partial_sums if kSums.
template <typename Acc, typename Operation>
__global__ void __launch_bounds__(kMaxThreads) quad_kernel(QuadParams<Acc> p, Operation operation) {
  const int height = p.view.height, width = p.view.width;
  const int rows = height / 2 + 1, columns = width / 2 + 1;
  Complex<Acc>* buffer = static_cast<Complex<Acc>*>(p.buffer);
  // A step of the pipeline has far fewer than 2^31 items, and 32-bit divisions are much faster.
  const unsigned items = unsigned(p.planes * rows * columns), stride = gridDim.x * blockDim.x;
  for (unsigned item = blockIdx.x * blockDim.x + threadIdx.x; item < items; item += stride) {
    const int m = int(item % columns), n = int(item / columns % rows);
    const int64_t plane = item / columns / rows;
    const int opposite = n == 0 ? 0 : height - n;
    const bool pair = opposite != n, both_columns = m > 0 && width - m != m;
    Complex<Acc>* slots = buffer + plane * height * columns + m;
    Complex<Acc>& slot_1 = slots[int64_t(n) * columns];
    Complex<Acc>& slot_2 = slots[int64_t(opposite) * columns];
    const Complex<Acc> turn_n = quarter_turn(n, height, Acc()),
                       turn_m = quarter_turn(m, width, Acc());

    // The coefficients (n, m) - i (n, W-m), and those of row H-n.
    Complex<Acc> c1 = slot_1, c2 = slot_2;
    if (p.forward) {
      const Complex<Acc> a = times(turn_n, c1), b = conj_times(turn_n, c2);
      const Complex<Acc> u1{(a.re + b.re) / 2, (a.im + b.im) / 2};
      const Complex<Acc> u2{(b.im - a.im) / 2, (a.re - b.re) / 2};  // i (a - b) / 2
      c1 = times(turn_m, u1);
      c2 = times(turn_m, u2);
      c1.im = -c1.im;
      c2.im = -c2.im;
    }
    const auto apply = [&](Acc value, int row, int column) {
      if (p.forward)
        value *=
            (row == 0 ? p.forward_h0 : p.forward_h) * (column == 0 ? p.forward_w0 : p.forward_w);
      value = p.view.swapped ? operation(value, unsigned(p.first_plane + plane), column, row)
                             : operation(value, unsigned(p.first_plane + plane), row, column);
      if (p.inverse)
        value *=
            (row == 0 ? p.inverse_h0 : p.inverse_h) * (column == 0 ? p.inverse_w0 : p.inverse_w);
      return value;
    };
    c1.re = apply(c1.re, n, m);
    if (both_columns) c1.im = apply(c1.im, n, width - m);
    if (pair) {
      c2.re = apply(c2.re, opposite, m);
      if (both_columns) c2.im = apply(c2.im, opposite, width - m);
    }
    if (p.inverse) {
      // What a missing partner stands for: coefficient W or H (zero), or W/2 or H/2 (itself).
      if (!both_columns) {
        c1.im = m == 0 ? Acc(0) : c1.re;
        c2.im = m == 0 ? Acc(0) : c2.re;
      }
      if (!pair) c2 = n == 0 ? Complex<Acc>{0, 0} : c1;
      c1.im = -c1.im;
      c2.im = -c2.im;
      const Complex<Acc> u1 = conj_times(turn_m, c1), u2 = conj_times(turn_m, c2);
      c1 = conj_times(turn_n, Complex<Acc>{u1.re + u2.im, u1.im - u2.re});  // u1 - i u2
      c2 = times(turn_n, Complex<Acc>{u1.re - u2.im, u1.im + u2.re});       // u1 + i u2
    }
    slot_1 = c1;
    if (pair) slot_2 = c2;
  }
  if constexpr (Operation::kSums) {
    RSVHEAT_DYNAMIC_SHARED(shared);
    const double sum = block_sum(operation.sum, reinterpret_cast<double*>(shared));
    if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = sum;
  }
}

// Fills in all but the planes' range and runs the operation on `planes` planes of the pipeline.
template <typename Acc, typename Operation>
Status launch_quads(const FftPipeline& f, void* buffer, int64_t first_plane, int64_t planes,
                    bool forward, bool inverse, const Operation& operation,
                    double* partial_sums = nullptr) {
  QuadParams<Acc> p{};
  p.buffer = buffer;
  p.planes = planes;
  p.first_plane = first_plane;
  p.view = f.view;
  p.forward = forward;
  p.inverse = inverse;
  p.forward_h0 = Acc(scale_of(f.view.height, true, false));
  p.forward_h = Acc(scale_of(f.view.height, false, false));
  p.forward_w0 = Acc(scale_of(f.view.width, true, false));
  p.forward_w = Acc(scale_of(f.view.width, false, false));
  // Undoes the scale, and cuFFT's missing 1 / size.
  p.inverse_h0 = p.forward_h0;
  p.inverse_h = p.forward_h / 2;
  p.inverse_w0 = p.forward_w0;
  p.inverse_w = p.forward_w / 2;
  p.partial_sums = partial_sums;
  const int64_t items = planes * (f.view.height / 2 + 1) * (f.view.width / 2 + 1);
  return launch(quad_kernel<Acc, Operation>, dim3(grid_blocks(items)), dim3(kMaxThreads),
                Operation::kSums ? kMaxThreads * sizeof(double) : 0, f.stream, p, operation);
}

}  // namespace rsvheat::cuda
