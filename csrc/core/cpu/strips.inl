// SPDX-License-Identifier: Apache-2.0
// Planes of (B, H, W, C) tensors that exceed the cache. A tile that holds such a plane would be
// written by rows and read by columns, a page apart from value to value. Here the plane between the
// passes lies like the tensor itself, in the result where that has the type of the arithmetic; only
// a strip of columns that fits L2 is copied to a tile, row by row, transformed there and copied
// back. All threads share a plane.

// Rows of a strip lie on different pages, which no hardware prefetcher follows.
inline constexpr int64_t kRowsAhead = 8;

// A group's plane between the passes: registers of a pixel are dense, pixels and rows are not.
template <class T>
struct Field {
  T* data;
  int64_t pixel_stride, row_stride;

  T* at(int64_t h, int64_t w) const { return data + h * row_stride + w * pixel_stride; }
};

template <class S>
struct StripPlane : NhwcPlane<S> {
  using Base = NhwcPlane<S>;
  using T = Compute<S>;
  using Base::L, Base::group, Base::width, Base::height, Base::channels, Base::row_stride;

  int64_t columns;  // of a strip

  explicit StripPlane(const Job& j) : Base(j), columns(j.tile.columns) {}

  int64_t strips() const { return (width + columns - 1) / columns; }
  int64_t columns_from(int64_t w) const { return width - w < columns ? width - w : columns; }

  // An item's plane in a tensor of the arithmetic's type.
  Field<T> in_tensor(void* data, int64_t image, int64_t item_group) const {
    return {static_cast<T*>(data) + Base::offset(image, 0, item_group), channels, width * channels};
  }
  // Plane `index` of the work space that the threads share.
  Field<T> in_workspace(int64_t index) const {
    T* planes = reinterpret_cast<T*>(Base::job.workspace.shared);
    return {planes + index * plane_registers(Base::job.shape, Base::job.tile) * L, group * L,
            plane_row_registers(Base::job.shape, Base::job.tile) * L};
  }

  // Transforms rows [begin, end) of a group, a register of channels at a time: a row of all of them
  // would leave L2 before its turn.
  template <class From, class To>
  void rows(LineTransform<T> transform, const From* from, int64_t from_pixel, int64_t from_row,
            To* to, int64_t to_pixel, int64_t to_row, int64_t item_group, int64_t begin,
            int64_t end, const Slot<T>& slot) const {
    const int64_t count = Base::channels_of(item_group);
    for (int64_t h = begin; h < end; ++h) {
      for (int64_t c = 0; c < count; c += L) {
        const int64_t run = count - c < L ? count - c : L;
        const bool last = c + L >= count;
        if (!last || h + 1 < end) {
          prefetch_runs(from + (last ? (h + 1) * from_row : h * from_row + c + L), from_pixel,
                        width, run);
        }
        load_runs(from + h * from_row + c, from_pixel, width, run, slot.lines, L);
        transform(Base::width_plan, int(width), slot.lines, L, slot.other, L, slot.work);
        store_runs(slot.other, L, width, run, to + h * to_row + c, to_pixel);
      }
    }
  }

  void forward_rows(const void* x, int64_t image, int64_t item_group, int64_t begin, int64_t end,
                    Field<T> field, const Slot<T>& slot) const {
    rows(dct2_line<T>, static_cast<const S*>(x) + Base::offset(image, 0, item_group), channels,
         width * channels, field.data, field.pixel_stride, field.row_stride, item_group, begin, end,
         slot);
  }
  void inverse_rows(Field<T> field, void* y, int64_t image, int64_t item_group, int64_t begin,
                    int64_t end, const Slot<T>& slot) const {
    rows(dct3_line<T>, field.data, field.pixel_stride, field.row_stride,
         static_cast<S*>(y) + Base::offset(image, 0, item_group), channels, width * channels,
         item_group, begin, end, slot);
  }

  // Copies the strip from column w on to a tile, or back.
  void load_strip(Field<T> field, int64_t w, int64_t item_group, T* tile) const {
    const int64_t pixels = columns_from(w), count = Base::channels_of(item_group);
    for (int64_t h = 0; h < height; ++h) {
      if (h + kRowsAhead < height) {
        prefetch_runs(field.at(h + kRowsAhead, w), field.pixel_stride, pixels, count);
      }
      load_runs(field.at(h, w), field.pixel_stride, pixels, count, tile + h * row_stride,
                group * L);
    }
  }
  void store_strip(const T* tile, Field<T> field, int64_t w, int64_t item_group) const {
    const int64_t pixels = columns_from(w), count = Base::channels_of(item_group);
    for (int64_t h = 0; h < height; ++h) {
      store_runs(tile + h * row_stride, group * L, pixels, count, field.at(h, w),
                 field.pixel_stride);
    }
  }

  // Transforms the columns of a strip in place.
  void transform_strip(LineTransform<T> transform, T* tile, int64_t w, int64_t item_group,
                       const Slot<T>& slot) const {
    Base::for_each_column(0, columns_from(w), item_group, [&](int64_t at) {
      transform(Base::height_plan, int(height), tile + at, row_stride, tile + at, row_stride,
                slot.work);
    });
  }
};
