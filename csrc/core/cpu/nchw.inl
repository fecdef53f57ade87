// SPDX-License-Identifier: Apache-2.0
// Rows and columns of (B, C, H, W) tensors: an item is one image plane. Columns are transformed
// kLanes at a time as they lie; kLanes rows at a time are transposed in registers on the way into
// the row transform and back on the way out.

template <class S>
struct NchwPlane {
  using T = Compute<S>;
  static constexpr int L = kLanes<T>;

  const Job& job;
  int64_t height, width;
  int64_t row_stride;  // of the tile
  const Plan<T>*height_plan, *width_plan;

  explicit NchwPlane(const Job& j)
      : job(j),
        height(j.shape.height),
        width(j.shape.width),
        row_stride(j.tile.row_registers * L),
        height_plan(static_cast<const Plan<T>*>(j.height_plan)),
        width_plan(static_cast<const Plan<T>*>(j.width_plan)) {}

  int64_t items() const { return job.shape.batch * job.shape.channels; }
  int64_t row_parts() const { return (height + L - 1) / L; }
  int64_t column_parts() const { return (width + L - 1) / L; }

  static int64_t count_from(int64_t begin, int64_t end) {
    return end - begin < L ? end - begin : L;
  }

  // Transforms the row groups [begin, end): load_row(h, w, count) gives the `count` elements from
  // (h, w) on; store_row(h, w, count, v) takes them transformed.
  template <class LoadRow, class StoreRow>
  void rows(int64_t begin, int64_t end, const Slot<T>& slot, LineTransform<T> transform,
            const LoadRow& load_row, const StoreRow& store_row) const {
    Vec<T> block[L];
    for (int64_t part = begin; part < end; ++part) {
      const int64_t h = part * L, count = count_from(h, height);
      for (int64_t w = 0; w < width; w += L) {
        for (int i = 0; i < L; ++i) {
          block[i] = i < count ? load_row(h + i, w, count_from(w, width)) : Vec<T>{};
        }
        transpose<T>(block);
        for (int i = 0; i < L; ++i) store(slot.lines + (w + i) * L, block[i]);
      }
      transform(width_plan, static_cast<int>(width), slot.lines, L, slot.other, L, slot.work);
      for (int64_t w = 0; w < width; w += L) {
        // Lanes beyond the width stay zero in the tile: column sums must not see stale memory.
        for (int i = 0; i < L; ++i) {
          block[i] = w + i < width ? load(slot.other + (w + i) * L) : Vec<T>{};
        }
        transpose<T>(block);
        for (int i = 0; i < count; ++i) store_row(h + i, w, count_from(w, width), block[i]);
      }
    }
  }

  auto tile_loader(const T* tile) const {
    return [=, this](int64_t h, int64_t w, int64_t) { return load(tile + h * row_stride + w); };
  }
  auto tile_storer(T* tile) const {
    return
        [=, this](int64_t h, int64_t w, int64_t, Vec<T> v) { store(tile + h * row_stride + w, v); };
  }

  // Column group `part` of the tile -> line, one register a row.
  void column_to_line(int64_t part, const T* tile, const Slot<T>& slot,
                      LineTransform<T> transform) const {
    transform(height_plan, static_cast<int>(height), tile + part * L, row_stride, slot.lines, L,
              slot.work);
  }
  void line_to_column(int64_t part, T* tile, const Slot<T>& slot,
                      LineTransform<T> transform) const {
    transform(height_plan, static_cast<int>(height), slot.lines, L, tile + part * L, row_stride,
              slot.work);
  }
};
