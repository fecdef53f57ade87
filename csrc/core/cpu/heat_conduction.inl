// SPDX-License-Identifier: Apache-2.0
// The heat conduction operator and its gradients. Rows forward, then strip by strip the columns
// forward, filter and inverse while the strip is in cache, then rows inverse. The orthonormal
// scales of the transforms are folded into the filter.

template <class T>
void multiply_lines(T* lines, const T* factors, int64_t registers) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < registers; ++i)
    store(lines + i * L, load(lines + i * L) * load(factors + i * L));
}

template <class S>
bool heat_conduction(const HeatJob& job) {
  using T = Compute<S>;
  const NhwcPlane<S> plane(job);
  const int64_t batch = job.shape.batch, height = plane.height;
  // Items of one channel group follow each other, so that a batch shares its filter.
  bool valid = true;
  run_items<T>(
      job, plane.items(), 1, height, plane.width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.forward_rows(job.x, item % batch, item / batch, begin, end, owner.tile, slot);
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item / batch, count = plane.channels_of(group);
        const bool keep_filter = job.keeps_filter && &owner == &slot;
        Mask<T> invalid{};
        plane.for_each_strip(begin, end, [&](int64_t first, int64_t last) {
          T* filters = slot.filters;
          if (keep_filter) filters = slot.extra + plane.column_at(first, 0) * kLanes<T>;
          if (!keep_filter || slot.cached_group != group) {
            plane.filter_strip(job.coefficients, job.kind, first, last, group, filters, &invalid);
          }
          plane.strip_in(dct2_line<T>, owner.tile, first, last, count, slot.lines, slot);
          multiply_lines(slot.lines, filters, plane.column_at(last - first, 0));
          plane.strip_out(dct3_line<T>, slot.lines, first, last, count, owner.tile, slot);
        });
        slot.cached_group = keep_filter ? group : -1;
        if (any<T>(invalid)) __atomic_store_n(&valid, false, __ATOMIC_RELAXED);
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.inverse_rows(owner.tile, job.y, item % batch, item / batch, begin, end, slot);
      });
  return valid;
}

// Adds the product of both transforms to grad_coefficients' strip [first, last); after the last
// image multiplies by d filter / dk = -|omega|^2 filter, or by the transforms' squared scales,
// which `filters` holds already.
template <class S>
void add_coefficient_gradient(const HeatBackwardJob& job, const NhwcPlane<S>& plane, int64_t image,
                              int64_t group, int64_t first, int64_t last,
                              const Slot<Compute<S>>& slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const Plan<T>&height_plan = *plane.height_plan, &width_plan = *plane.width_plan;
  const int64_t count = plane.channels_of(group);
  for (int64_t h = 0; h < plane.height; ++h) {
    T* row = static_cast<T*>(job.grad_coefficients) + plane.offset(0, h, group);
    for (int64_t w = first; w < last; ++w) {
      const T omega_sq = height_plan.omega_sq[h] + width_plan.omega_sq[w];
      const T scale = height_plan.scale_sq[h] * width_plan.scale_sq[w];
      for (int64_t c = 0; c < count; c += L) {
        const int64_t at = (plane.column_at(w - first, 0) + h) * L + c * plane.height;
        T* out = row + w * plane.channels + c;
        Vec<T> sum = load(slot.lines + at) * load(slot.other + at);
        if (image > 0) sum += load_first(out, count - c);
        if (image + 1 == job.shape.batch) {
          sum *=
              job.kind == Conduction::kFilter ? splat(scale) : load(slot.filters + at) * -omega_sq;
        }
        store_first(out, sum, count - c);
      }
    }
  }
}

// Per image: grad_y and x forward, their product added up, grad_y times the filter inverse. A
// thread takes a channel group with the whole batch, which fixes the order of the sums.
template <class S>
void heat_conduction_backward(const HeatBackwardJob& job) {
  using T = Compute<S>;
  const NhwcPlane<S> plane(job);
  const int64_t batch = job.shape.batch, height = plane.height;
  run_items<T>(
      job, plane.items(), batch, height, plane.width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item / batch, image = item % batch;
        plane.forward_rows(job.grad_y, image, group, begin, end, owner.tile, slot);
        if (job.grad_coefficients) {
          plane.forward_rows(job.x, image, group, begin, end, owner.extra, slot);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item / batch, count = plane.channels_of(group);
        plane.for_each_strip(begin, end, [&](int64_t first, int64_t last) {
          Mask<T> invalid{};  // the forward has checked k
          plane.filter_strip(job.coefficients, job.kind, first, last, group, slot.filters,
                             &invalid);
          plane.strip_in(dct2_line<T>, owner.tile, first, last, count, slot.lines, slot);
          if (job.grad_coefficients) {
            plane.strip_in(dct2_line<T>, owner.extra, first, last, count, slot.other, slot);
            add_coefficient_gradient(job, plane, item % batch, group, first, last, slot);
          }
          if (!job.grad_x) return;
          multiply_lines(slot.lines, slot.filters, plane.column_at(last - first, 0));
          plane.strip_out(dct3_line<T>, slot.lines, first, last, count, owner.tile, slot);
        });
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        if (!job.grad_x) return;
        plane.inverse_rows(owner.tile, job.grad_x, item % batch, item / batch, begin, end, slot);
      });
}
