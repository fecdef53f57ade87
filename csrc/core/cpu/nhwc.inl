// SPDX-License-Identifier: Apache-2.0
// Rows and columns of (B, H, W, C) tensors. An item is one image and a group of neighbouring
// channels, a few registers wide; the tile keeps a pixel's registers side by side, so a "register
// column" is one register of one pixel column.
//
// A pixel's group is one run of memory, and pixels of wide tensors lie a multiple of 4096 bytes
// apart: their lines share sets of every cache, rows even more so, and each starts a page. Reading
// k down its columns took five times as long as along its rows. So memory is touched row by row, a
// run at a time, through a dense row in L1, and the next row is asked for ahead of time.

// Copies `pixels` runs of `count` elements, `from_stride` apart, to whole registers `to_stride`
// apart. Runs of one register, the rule for large planes, get a loop without an inner one.
template <class S>
void load_runs(const S* from, int64_t from_stride, int64_t pixels, int64_t count, Compute<S>* to,
               int64_t to_stride) {
  constexpr int L = kLanes<Compute<S>>;
  if (count == L) {
    for (int64_t w = 0; w < pixels; ++w)
      store(to + w * to_stride, Storage<S>::load(from + w * from_stride));
    return;
  }
  const int64_t full = count / L * L;
  for (int64_t w = 0; w < pixels; ++w, from += from_stride, to += to_stride) {
    for (int64_t c = 0; c < full; c += L) store(to + c, Storage<S>::load(from + c));
    if (full < count) store(to + full, load_first(from + full, count - full));
  }
}

// The way back.
template <class S>
void store_runs(const Compute<S>* from, int64_t from_stride, int64_t pixels, int64_t count, S* to,
                int64_t to_stride) {
  constexpr int L = kLanes<Compute<S>>;
  if (count == L) {
    for (int64_t w = 0; w < pixels; ++w)
      Storage<S>::store(to + w * to_stride, load(from + w * from_stride));
    return;
  }
  const int64_t full = count / L * L;
  for (int64_t w = 0; w < pixels; ++w, from += from_stride, to += to_stride) {
    for (int64_t c = 0; c < full; c += L) Storage<S>::store(to + c, load(from + c));
    if (full < count) store_first(to + full, load(from + full), count - full);
  }
}

// Asks for `pixels` runs to be brought into L2 (L1 lacks the ways).
template <class S>
void prefetch_runs(const S* from, int64_t stride, int64_t pixels, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(S);
  for (int64_t w = 0; w < pixels; ++w, from += stride) {
    for (int64_t c = 0; c < count; c += kLine) __builtin_prefetch(from + c, 0, 2);
  }
}

// A row of filters, times scale_h * scale_w[w]: `registers` registers for each of `pixels` pixels,
// `from_stride` apart in the coefficients, `to_stride` in the result. Diffusivities become
// exp(-k * (omega_sq_h + omega_sq_w[w])), also for an infinite k: 1 at omega = 0, else 0. Returns
// the lanes with k < 0 or NaN. A function of its own, so that the constants of exp stay in
// registers.
template <class T, bool kDiffusivity>
__attribute__((noinline)) Mask<T> filter_row(const T* from, int64_t from_stride, int64_t pixels,
                                             int64_t registers, T* to, int64_t to_stride, T scale_h,
                                             T omega_sq_h, const T* scale_w, const T* omega_sq_w) {
  constexpr int L = kLanes<T>;
  Mask<T> invalid{};
  for (int64_t w = 0; w < pixels; ++w, from += from_stride, to += to_stride) {
    const T scale = scale_h * scale_w[w];
    const T exponent = -(omega_sq_h + omega_sq_w[w]);
    for (int64_t r = 0; r < registers; ++r) {
      Vec<T> value = load(from + r * L);
      if constexpr (kDiffusivity) {
        invalid |= ~(value >= T(0));
        constexpr T kLargest = std::numeric_limits<T>::max();
        value = value < kLargest ? value : splat(kLargest);
        value = exp_nonpositive(value * exponent);
      }
      store(to + r * L, value * scale);
    }
  }
  return invalid;
}

template <class S>
struct NhwcPlane {
  using T = Compute<S>;
  static constexpr int L = kLanes<T>;

  const Job& job;
  int64_t height, width, channels;
  int64_t group;       // registers a pixel
  int64_t groups;      // of channels
  int64_t row_stride;  // of the tile
  const Plan<T>*height_plan, *width_plan;

  explicit NhwcPlane(const Job& j)
      : job(j),
        height(j.shape.height),
        width(j.shape.width),
        channels(j.shape.channels),
        group(j.tile.group),
        groups((j.shape.channels + group * L - 1) / (group * L)),
        row_stride(j.tile.row_registers * L),
        height_plan(static_cast<const Plan<T>*>(j.height_plan)),
        width_plan(static_cast<const Plan<T>*>(j.width_plan)) {}

  int64_t items() const { return groups * job.shape.batch; }

  // Where row h of a group starts.
  int64_t offset(int64_t image, int64_t h, int64_t item_group) const {
    return (image * height + h) * width * channels + item_group * group * L;
  }

  // The channels a group has: group * L but for the last.
  int64_t channels_of(int64_t item_group) const {
    const int64_t left = channels - item_group * group * L;
    return left < group * L ? left : group * L;
  }

  // Rows [begin, end): x -> tile. `prepare(h, row)` may change the dense row before its transform.
  template <class Prepare>
  void rows_in(const void* x, int64_t image, int64_t item_group, int64_t begin, int64_t end,
               T* tile, const Slot<T>& slot, LineTransform<T> transform,
               const Prepare& prepare) const {
    const int64_t count = channels_of(item_group), stride = group * L;
    for (int64_t h = begin; h < end; ++h) {
      const S* row = static_cast<const S*>(x) + offset(image, h, item_group);
      if (h + 1 < end) prefetch_runs(row + width * channels, channels, width, count);
      load_runs(row, channels, width, count, slot.lines, stride);
      prepare(h, slot.lines);
      for (int64_t c = 0; c < count; c += L) {
        transform(width_plan, int(width), slot.lines + c, stride, tile + h * row_stride + c, stride,
                  slot.work);
      }
    }
  }

  void forward_rows(const void* x, int64_t image, int64_t item_group, int64_t begin, int64_t end,
                    T* tile, const Slot<T>& slot) const {
    rows_in(x, image, item_group, begin, end, tile, slot, dct2_line<T>, [](int64_t, T*) {});
  }

  // Rows [begin, end): tile -> y.
  void inverse_rows(const T* tile, void* y, int64_t image, int64_t item_group, int64_t begin,
                    int64_t end, const Slot<T>& slot) const {
    const int64_t count = channels_of(item_group), stride = group * L;
    for (int64_t h = begin; h < end; ++h) {
      for (int64_t c = 0; c < count; c += L) {
        dct3_line(width_plan, int(width), tile + h * row_stride + c, stride, slot.lines + c, stride,
                  slot.work);
      }
      store_runs(slot.lines, stride, width, count,
                 static_cast<S*>(y) + offset(image, h, item_group), channels);
    }
  }

  // Calls body(offset in the tile) for every register column of the pixel columns [begin, end).
  template <class Body>
  void for_each_column(int64_t begin, int64_t end, int64_t item_group, const Body& body) const {
    const int64_t count = channels_of(item_group);
    for (int64_t w = begin; w < end; ++w) {
      for (int64_t c = 0; c < count; c += L) body(w * group * L + c);
    }
  }

  // Transforms a register column of the tile to slot.lines, or back.
  void column_in(LineTransform<T> transform, const T* column, T* line, const Slot<T>& slot) const {
    transform(height_plan, int(height), column, row_stride, line, L, slot.work);
  }
  void column_out(LineTransform<T> transform, const T* line, T* column, const Slot<T>& slot) const {
    transform(height_plan, int(height), line, L, column, row_stride, slot.work);
  }

  // Rows [begin, end) of a group's filters times the squared scales of both transforms, laid out as
  // a tile. Returns whether every diffusivity is >= 0.
  bool filter_rows(const Coefficients& c, Conduction kind, int64_t item_group, int64_t begin,
                   int64_t end, T* tile, const Slot<T>& slot) const {
    bool valid = true;
    for (int64_t h = begin; h < end; ++h) {
      valid &= filter_pixels(c, kind, item_group, h, 0, width, 1, tile + h * row_stride, slot);
    }
    return valid;
  }

  // The same for `pixels` pixels of row h from column w on; asks for those `ahead` rows below.
  bool filter_pixels(const Coefficients& c, Conduction kind, int64_t item_group, int64_t h,
                     int64_t w, int64_t pixels, int64_t ahead, T* to, const Slot<T>& slot) const {
    const int64_t count = channels_of(item_group), registers = (count + L - 1) / L;
    const T* row = static_cast<const T*>(c.data) + item_group * group * L * c.stride_c +
                   h * c.stride_h + w * c.stride_w;
    int64_t stride = c.stride_w;
    if (h + ahead < height) {
      prefetch_runs(row + ahead * c.stride_h, stride, pixels, c.stride_c ? count : 1);
    }
    if (c.stride_c == 0 || count % L != 0) {  // one value for all channels, or a register in part
      if (c.stride_c) {
        load_runs(row, stride, pixels, count, slot.lines, group * L);
      } else {
        for (int64_t i = 0; i < pixels * group; ++i) {
          store(slot.lines + i * L, splat(row[i / group * stride]));
        }
      }
      row = slot.lines;
      stride = group * L;
    }
    const auto row_of =
        kind == Conduction::kDiffusivity ? filter_row<T, true> : filter_row<T, false>;
    return !any<T>(row_of(row, stride, pixels, registers, to, group * L, height_plan->scale_sq[h],
                          height_plan->omega_sq[h], width_plan->scale_sq + w,
                          width_plan->omega_sq + w));
  }
};
