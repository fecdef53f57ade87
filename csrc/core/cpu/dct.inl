// SPDX-License-Identifier: Apache-2.0
// The orthonormal transforms by themselves. The product of the axes' scales is applied once: after
// the columns going forward, before them going back (the axes commute).

template <class S>
void dct2d_nhwc(const DctJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NhwcPlane<S> plane(job);
  const int64_t blocks = plane.blocks, height = plane.height, width = plane.width;
  const T* scale_h = plane.height_plan->scale;
  const T* scale_w = plane.width_plan->scale;
  run_items<T>(
      job, plane.items(), 1, height, width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t block = item % blocks, image = item / blocks;
        if (!job.inverse) {
          return plane.forward_rows(job.x, image, block, begin, end, owner.tile, slot);
        }
        for (int64_t h = begin; h < end; ++h) {
          const S* row = static_cast<const S*>(job.x) + plane.offset(image, h, block);
          T* line = owner.tile + h * plane.row_stride;
          for (int64_t w = 0; w < width; ++w) {
            store(line + w * L, load_first(row + w * plane.channels, plane.lanes_of(block)) *
                                    (scale_h[h] * scale_w[w]));
          }
          dct3_line(plane.width_plan, width, line, L, line, L, slot.work);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t block = item % blocks, image = item / blocks;
        const auto transform = job.inverse ? dct3_line<T> : dct2_line<T>;
        for (int64_t w = begin; w < end; ++w) {
          transform(plane.height_plan, height, owner.tile + w * L, plane.row_stride, slot.line, L,
                    slot.work);
          S* out = static_cast<S*>(job.y) + plane.offset(image, 0, block) + w * plane.channels;
          for (int64_t h = 0; h < height; ++h, out += width * plane.channels) {
            Vec<T> value = load(slot.line + h * L);
            if (!job.inverse) value *= scale_h[h] * scale_w[w];
            store_first(out, value, plane.lanes_of(block));
          }
        }
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
            Vec<T> value = load(slot.line + h * L);
            if (!job.inverse) value *= scale * scale_h[h];
            store_first(y + h * width + w, value, count);
          }
        }
      },
      NoPass{});
}
