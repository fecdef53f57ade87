// SPDX-License-Identifier: Apache-2.0
// Both L1 terms in one pass over the difference, and the spectral term's gradient with it.

template <class T>
Vec<T> absolute(Vec<T> v) {
  return v < T(0) ? -v : v;
}

template <class T>
double sum_lanes(Vec<T> v) {
  double sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

template <class S>
void spectral_l1(const SpectralL1Job& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NchwPlane<S> plane(job);
  const int64_t height = plane.height, width = plane.width, size = height * width;
  const int64_t parts = plane.row_parts() + plane.column_parts();
  const T* scale_h = plane.height_plan->scale;
  const T* scale_w = plane.width_plan->scale;
  run_items<T>(
      job, plane.items(), 1, plane.row_parts(), plane.column_parts(),
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const S* pred = static_cast<const S*>(job.pred) + item * size;
        const S* target = static_cast<const S*>(job.target) + item * size;
        for (int64_t part = begin; part < end; ++part) {
          double total = 0;
          const auto load_row = [&](int64_t h, int64_t w, int64_t count) {
            const int64_t at = h * width + w;
            const Vec<T> difference = load_first(pred + at, count) - load_first(target + at, count);
            total += sum_lanes<T>(absolute<T>(difference));
            return difference;
          };
          plane.rows(part, part + 1, slot, dct2_line<T>, load_row, plane.tile_storer(owner.tile));
          job.partial_sums[item * parts + part] = total;
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        for (int64_t part = begin; part < end; ++part) {
          plane.column_to_line(part, owner.tile, slot, dct2_line<T>);
          const int64_t w = part * L, count = plane.count_from(w, width);
          const Vec<T> scale = load_first(scale_w + w, count);  // 0 in lanes beyond the width
          Vec<T> total{};
          for (int64_t h = 0; h < height; ++h) {
            // A signed zero has no gradient: sign(0) = 0. The scales are positive.
            const Vec<T> value = load(slot.lines + h * L);
            const Vec<T> scaled = scale * scale_h[h];
            total += absolute<T>(value) * scaled;
            const Vec<T> gradient = value > T(0) ? scaled : value < T(0) ? -scaled : Vec<T>{};
            store(slot.lines + h * L, gradient);
          }
          job.partial_sums[item * parts + plane.row_parts() + part] = sum_lanes<T>(total);
          if (job.grad) plane.line_to_column(part, owner.tile, slot, dct3_line<T>);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        if (!job.grad) return;
        S* grad = static_cast<S*>(job.grad) + item * size;
        const auto store_row = [&](int64_t h, int64_t w, int64_t count, Vec<T> value) {
          store_first(grad + h * width + w, value, count);
        };
        plane.rows(begin, end, slot, dct3_line<T>, plane.tile_loader(owner.tile), store_row);
      });
}
