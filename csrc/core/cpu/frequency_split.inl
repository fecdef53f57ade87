// SPDX-License-Identifier: Apache-2.0
// Rows forward, columns forward, masked and inverse, rows inverse; high is what low leaves of x.

template <class T>
Vec<T> lane_numbers(int64_t first) {
  Vec<T> numbers;
  for (int i = 0; i < kLanes<T>; ++i) numbers[i] = static_cast<T>(first + i);
  return numbers;
}

template <class S>
void frequency_split(const SplitJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NchwPlane<S> plane(job);
  const int64_t height = plane.height, width = plane.width, size = height * width;
  const T* scale_h = plane.height_plan->scale_sq;
  const T* scale_w = plane.width_plan->scale_sq;
  run_items<T>(
      job, plane.items(), 1, plane.row_parts(), plane.column_parts(),
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const S* x = static_cast<const S*>(job.x) + item * size;
        const auto load_row = [&](int64_t h, int64_t w, int64_t count) {
          return load_first(x + h * width + w, count);
        };
        plane.rows(begin, end, slot, dct2_line<T>, load_row, plane.tile_storer(owner.tile));
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const ColumnRange* ranges = job.ranges + item / job.shape.channels * height;
        for (int64_t part = begin; part < end; ++part) {
          plane.column_to_line(part, owner.tile, slot, dct2_line<T>);
          const int64_t w = part * L;
          const Vec<T> scale = load_first(scale_w + w, plane.count_from(w, width));
          const Vec<T> column = lane_numbers<T>(w);
          for (int64_t h = 0; h < height; ++h) {
            const Mask<T> keep = (column >= static_cast<T>(ranges[h].begin)) &
                                 (column < static_cast<T>(ranges[h].end));
            const Vec<T> value = load(slot.lines + h * L) * (scale * scale_h[h]);
            store(slot.lines + h * L, bit_cast<Vec<T>>(bit_cast<Mask<T>>(value) & keep));
          }
          plane.line_to_column(part, owner.tile, slot, dct3_line<T>);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const S* x = static_cast<const S*>(job.x) + item * size;
        const auto store_row = [&](int64_t h, int64_t w, int64_t count, Vec<T> value) {
          const int64_t at = item * size + h * width + w;
          S rounded[L];  // high completes what low holds after rounding
          Storage<S>::store(rounded, value);
          if (job.low) store_first(static_cast<S*>(job.low) + at, value, count);
          if (!job.high) return;
          const Vec<T> high = load_first(x + h * width + w, count) - Storage<S>::load(rounded);
          store_first(static_cast<S*>(job.high) + at, high, count);
        };
        plane.rows(begin, end, slot, dct3_line<T>, plane.tile_loader(owner.tile), store_row);
      });
}
