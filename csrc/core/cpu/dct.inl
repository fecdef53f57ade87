// SPDX-License-Identifier: Apache-2.0
// The orthonormal transforms by themselves. The product of the axes' scales is applied once: after
// the columns going forward, before them going back (the axes commute).

// Multiplies pixel w of a dense row.
template <class T>
void scale_runs(T* row, int64_t group, int64_t w, T scale) {
  constexpr int L = kLanes<T>;
  T* run = row + w * group * L;
  for (int64_t r = 0; r < group; ++r) store(run + r * L, load(run + r * L) * scale);
}

template <class S>
void dct2d_nhwc(const DctJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NhwcPlane<S> plane(job);
  const int64_t groups = plane.groups, width = plane.width;
  const T* scale_h = plane.height_plan->scale;
  const T* scale_w = plane.width_plan->scale;
  const LineTransform<T> transform = job.inverse ? dct3_line<T> : dct2_line<T>;
  run_items<T>(
      job, plane.items(), 1, plane.height, width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const auto unscale = [&](int64_t h, T* row) {
          if (!job.inverse) return;
          for (int64_t w = 0; w < width; ++w)
            scale_runs(row, plane.group, w, scale_h[h] * scale_w[w]);
        };
        plane.rows_in(job.x, item / groups, item % groups, begin, end, owner.tile, slot, transform,
                      unscale);
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item % groups, count = plane.channels_of(group);
        plane.for_each_strip(begin, end, [&](int64_t first, int64_t last) {
          plane.strip_in(transform, owner.tile, first, last, count, slot.lines, slot);
          for (int64_t h = 0; h < plane.height; ++h) {
            S* row = static_cast<S*>(job.y) + plane.offset(item / groups, h, group);
            for (int64_t w = first; w < last; ++w) {
              const T scale = job.inverse ? T(1) : scale_h[h] * scale_w[w];
              const T* column = slot.lines + (plane.column_at(w - first, 0) + h) * L;
              T run[kStrip * L];
              for (int64_t r = 0; r < plane.group; ++r) {
                store(run + r * L, load(column + r * plane.height * L) * scale);
              }
              store_runs(run, 0, 1, count, row + w * plane.channels, 0);
            }
          }
        });
      },
      NoPass{});
}

template <class S>
void dct2d_nchw(const DctJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NchwPlane<S> plane(job);
  const int64_t width = plane.width, size = plane.height * width;
  const T* scale_h = plane.height_plan->scale;
  const T* scale_w = plane.width_plan->scale;
  const LineTransform<T> transform = job.inverse ? dct3_line<T> : dct2_line<T>;
  run_items<T>(
      job, plane.items(), 1, plane.row_parts(), plane.column_parts(),
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const S* x = static_cast<const S*>(job.x) + item * size;
        const auto load_row = [&](int64_t h, int64_t w, int64_t count) {
          Vec<T> value = load_first(x + h * width + w, count);
          if (job.inverse) value *= load_first(scale_w + w, count) * scale_h[h];
          return value;
        };
        plane.rows(begin, end, slot, transform, load_row, plane.tile_storer(owner.tile));
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        S* y = static_cast<S*>(job.y) + item * size;
        for (int64_t part = begin; part < end; ++part) {
          plane.column_to_line(part, owner.tile, slot, transform);
          const int64_t w = part * L, count = plane.count_from(w, width);
          const Vec<T> scale = load_first(scale_w + w, count);
          for (int64_t h = 0; h < plane.height; ++h) {
            Vec<T> value = load(slot.lines + h * L);
            if (!job.inverse) value *= scale * scale_h[h];
            store_first(y + h * width + w, value, count);
          }
        }
      },
      NoPass{});
}
