// SPDX-License-Identifier: Apache-2.0
// The orthonormal transforms by themselves. The product of the axes' scales is applied once: after
// the columns going forward, before them going back (the axes commute).

template <class T>
void scale_run(T* run, int64_t registers, T scale) {
  constexpr int L = kLanes<T>;
  for (int64_t r = 0; r < registers; ++r) store(run + r * L, load(run + r * L) * scale);
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
  const auto scale_row = [&](int64_t h, T* row) {
    for (int64_t w = 0; w < width; ++w)
      scale_run(row + w * plane.group * L, plane.group, scale_h[h] * scale_w[w]);
  };
  run_items<T>(
      job, plane.items(), 1, plane.height, width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.rows_in(job.x, item / groups, item % groups, begin, end, owner.tile, slot, transform,
                      [&](int64_t h, T* row) {
                        if (job.inverse) scale_row(h, row);
                      });
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.for_each_column(begin, end, item % groups, [&](int64_t at) {
          transform(plane.height_plan, int(plane.height), owner.tile + at, plane.row_stride,
                    owner.tile + at, plane.row_stride, slot.work);
        });
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>&) {
        const int64_t group = item % groups, image = item / groups;
        for (int64_t h = begin; h < end; ++h) {
          T* row = owner.tile + h * plane.row_stride;
          if (!job.inverse) scale_row(h, row);
          store_runs(row, plane.group * L, width, plane.channels_of(group),
                     static_cast<S*>(job.y) + plane.offset(image, h, group), plane.channels);
        }
      });
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
