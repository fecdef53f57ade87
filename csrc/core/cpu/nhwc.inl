// SPDX-License-Identifier: Apache-2.0
// Rows and columns of (B, H, W, C) tensors. An item is one image and a group of neighbouring
// channels, a few registers wide; the tile keeps a pixel's registers side by side, so a "register
// column" is one register of one pixel column.
//
// A pixel's group is one run of memory, and pixels of wide tensors lie a multiple of 4096 bytes
// apart: their lines share a set of L1 and each starts a page. So memory is touched row by row, a
// run at a time, through a dense row in L1, and the next row is asked for ahead of time.

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

  // Asks for a group's part of a row of pixels to be brought into L2 (L1 lacks the ways).
  template <class Element>
  void prefetch_row(const Element* row, int64_t stride, int64_t pixels, int64_t count) const {
    constexpr int64_t kLine = 64 / sizeof(Element);
    for (int64_t w = 0; w < pixels; ++w) {
      for (int64_t c = 0; c < count; c += kLine) __builtin_prefetch(row + w * stride + c, 0, 2);
    }
  }

  // Rows [begin, end): x, changed by change(v, h, w) -> tile.
  template <class Change>
  void rows_in(const void* x, int64_t image, int64_t item_group, int64_t begin, int64_t end,
               T* tile, const Slot<T>& slot, LineTransform<T> transform,
               const Change& change) const {
    const int64_t count = channels_of(item_group), stride = group * L;
    for (int64_t h = begin; h < end; ++h) {
      const S* row = static_cast<const S*>(x) + offset(image, h, item_group);
      if (h + 1 < end) prefetch_row(row + width * channels, channels, width, count);
      for (int64_t w = 0; w < width; ++w) {
        for (int64_t c = 0; c < count; c += L) {
          store(slot.lines + w * stride + c,
                change(load_first(row + w * channels + c, count - c), h, w));
        }
      }
      for (int64_t c = 0; c < count; c += L) {
        transform(width_plan, int(width), slot.lines + c, stride, tile + h * row_stride + c, stride,
                  slot.work);
      }
    }
  }

  void forward_rows(const void* x, int64_t image, int64_t item_group, int64_t begin, int64_t end,
                    T* tile, const Slot<T>& slot) const {
    rows_in(x, image, item_group, begin, end, tile, slot, dct2_line<T>,
            [](Vec<T> v, int64_t, int64_t) { return v; });
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
      S* row = static_cast<S*>(y) + offset(image, h, item_group);
      for (int64_t w = 0; w < width; ++w) {
        for (int64_t c = 0; c < count; c += L) {
          store_first(row + w * channels + c, load(slot.lines + w * stride + c), count - c);
        }
      }
    }
  }

  // Calls body(first, last) for the strips of pixel columns that make up [begin, end).
  template <class Body>
  void for_each_strip(int64_t begin, int64_t end, const Body& body) const {
    const int64_t step = kStrip / group;
    for (int64_t w = begin; w < end; w += step) body(w, w + step < end ? w + step : end);
  }

  // Register column r of pixel column w of a strip starts at lines + column_at(w, r) * L.
  int64_t column_at(int64_t w, int64_t r) const { return (w * group + r) * height; }

  static constexpr int64_t kRowsAhead = 4;  // of coefficients, whose rows in a strip are short

  // Transforms the strip [first, last) of the tile to lines, or lines to the strip.
  void strip_in(LineTransform<T> transform, const T* tile, int64_t first, int64_t last,
                int64_t count, T* lines, const Slot<T>& slot) const {
    for (int64_t w = first; w < last; ++w) {
      for (int64_t c = 0; c < count; c += L) {
        transform(height_plan, int(height), tile + w * group * L + c, row_stride,
                  lines + column_at(w - first, 0) * L + c * height, L, slot.work);
      }
    }
  }
  void strip_out(LineTransform<T> transform, const T* lines, int64_t first, int64_t last,
                 int64_t count, T* tile, const Slot<T>& slot) const {
    for (int64_t w = first; w < last; ++w) {
      for (int64_t c = 0; c < count; c += L) {
        transform(height_plan, int(height), lines + column_at(w - first, 0) * L + c * height, L,
                  tile + w * group * L + c, row_stride, slot.work);
      }
    }
  }

  // The filters of the pixel columns [first, last), times the squared scales of both transforms,
  // laid out as a strip. `invalid` collects the lanes whose diffusivity is not >= 0.
  void filter_strip(const Coefficients& c, Conduction kind, int64_t first, int64_t last,
                    int64_t item_group, T* lines, Mask<T>* invalid) const {
    const int64_t count = channels_of(item_group);
    const T* data = static_cast<const T*>(c.data) + item_group * group * L * c.stride_c;
    for (int64_t h = 0; h < height; ++h) {
      const T scale_h = height_plan->scale_sq[h], omega_sq_h = height_plan->omega_sq[h];
      if (h + kRowsAhead < height) {
        prefetch_row(data + (h + kRowsAhead) * c.stride_h + first * c.stride_w, c.stride_w,
                     last - first, count * c.stride_c + 1 - c.stride_c);
      }
      for (int64_t w = first; w < last; ++w) {
        const T* p = data + h * c.stride_h + w * c.stride_w;
        const T scale = scale_h * width_plan->scale_sq[w];
        const T omega_sq = omega_sq_h + width_plan->omega_sq[w];
        T* column = lines + (column_at(w - first, 0) + h) * L;
        for (int64_t i = 0; i < count; i += L) {
          const Vec<T> value = c.stride_c ? load_first(p + i, count - i) : splat(*p);
          Vec<T> filter = value;
          if (kind == Conduction::kDiffusivity) {
            *invalid |= ~(value >= T(0));
            filter = exp_nonpositive(value * -omega_sq);
          }
          store(column + i * height, filter * scale);
        }
      }
    }
  }
};
