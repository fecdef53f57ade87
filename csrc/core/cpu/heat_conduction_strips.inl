// SPDX-License-Identifier: Apache-2.0
// The heat conduction operator and its gradients on planes that exceed the cache: rows forward,
// then strip by strip columns forward, filter and inverse, then rows inverse. The arithmetic is
// that of heat_conduction.inl, value by value.

// line[i] *= column[i], the latter `stride` apart.
template <class T>
void multiply_line(T* line, const T* column, int64_t stride, int64_t n) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < n; ++i) {
    store(line + i * L, load(line + i * L) * load(column + i * stride));
  }
}

// The factor of grad_coefficients at (h, w) beside the sum over the batch of the product of both
// transforms. d filter / dk = -|omega|^2 filter; the squared scales are in `filter`.
template <class S>
Vec<Compute<S>> coefficient_factor(Conduction kind, const NhwcPlane<S>& plane, int64_t h, int64_t w,
                                   const Compute<S>* filter) {
  const auto &height_plan = *plane.height_plan, &width_plan = *plane.width_plan;
  if (kind == Conduction::kFilter) return splat(height_plan.scale_sq[h] * width_plan.scale_sq[w]);
  return load(filter) * -(height_plan.omega_sq[h] + width_plan.omega_sq[w]);
}

template <class S>
bool heat_conduction_in_strips(const HeatJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const StripPlane<S> plane(job);
  const int64_t batch = job.shape.batch;
  bool valid = true;
  const auto field_of = [&](int64_t item) {
    if constexpr (__is_same(S, T)) return plane.in_tensor(job.y, item % batch, item / batch);
    return plane.in_workspace(0);
  };
  run_items<T>(
      job, plane.items(), 1, plane.height, plane.strips(),
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>&, Slot<T>& slot) {
        plane.forward_rows(job.x, item % batch, item / batch, begin, end, field_of(item), slot);
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>&, Slot<T>& slot) {
        const int64_t group = item / batch;
        const Field<T> field = field_of(item);
        for (int64_t w = begin * plane.columns; w < end * plane.columns && w < plane.width;
             w += plane.columns) {
          const int64_t pixels = plane.columns_from(w);
          plane.load_strip(field, w, group, slot.tile);
          plane.transform_strip(dct2_line<T>, slot.tile, w, group, slot);
          for (int64_t h = 0; h < plane.height; ++h) {
            if (!plane.filter_pixels(job.coefficients, job.kind, group, h, w, pixels, kRowsAhead,
                                     slot.other, slot)) {
              __atomic_store_n(&valid, false, __ATOMIC_RELAXED);
            }
            multiply_line(slot.tile + h * plane.row_stride, slot.other, L, pixels * plane.group);
          }
          plane.transform_strip(dct3_line<T>, slot.tile, w, group, slot);
          plane.store_strip(slot.tile, field, w, group);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>&, Slot<T>& slot) {
        plane.inverse_rows(field_of(item), job.y, item % batch, item / batch, begin, end, slot);
      });
  return valid;
}

// Row h of a strip of grad_coefficients: the products of both transforms, added to those of earlier
// images, and after the last image times what follows from the filter.
template <class S>
void add_coefficient_gradient(const HeatBackwardJob& job, const StripPlane<S>& plane, int64_t image,
                              int64_t group, int64_t h, int64_t w, const Compute<S>* grad_y,
                              const Compute<S>* x, const Compute<S>* filter,
                              const Slot<Compute<S>>& slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t pixels = plane.columns_from(w), count = plane.channels_of(group);
  const Field<T> sums = plane.in_tensor(job.grad_coefficients, 0, group);
  if (image > 0) {
    load_runs(sums.at(h, w), sums.pixel_stride, pixels, count, slot.lines, plane.group * L);
  }
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < count; c += L) {
      const int64_t at = p * plane.group * L + c;
      Vec<T> product = load(grad_y + at) * load(x + at);
      if (image > 0) product += load(slot.lines + at);
      if (image + 1 == job.shape.batch) {
        product = product * coefficient_factor(job.kind, plane, h, w + p, filter + at);
      }
      store(slot.lines + at, product);
    }
  }
  store_runs(slot.lines, plane.group * L, pixels, count, sums.at(h, w), sums.pixel_stride);
}

template <class S>
void heat_conduction_backward_in_strips(const HeatBackwardJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const StripPlane<S> plane(job);
  const int64_t batch = job.shape.batch;
  const auto grad_field = [&](int64_t item) {
    if constexpr (__is_same(S, T)) {
      if (job.grad_x) return plane.in_tensor(job.grad_x, item % batch, item / batch);
    }
    return plane.in_workspace(0);
  };
  const auto x_field = [&](int64_t item) {
    // The sums over the batch take the place of the plane once it is read.
    if (batch == 1) return plane.in_tensor(job.grad_coefficients, 0, item);
    return plane.in_workspace(__is_same(S, T) && job.grad_x ? 0 : 1);
  };
  run_items<T>(
      job, plane.items(), 1, plane.height, plane.strips(),
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>&, Slot<T>& slot) {
        const int64_t group = item / batch, image = item % batch;
        plane.forward_rows(job.grad_y, image, group, begin, end, grad_field(item), slot);
        if (job.grad_coefficients) {
          plane.forward_rows(job.x, image, group, begin, end, x_field(item), slot);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>&, Slot<T>& slot) {
        const int64_t group = item / batch, image = item % batch;
        T* x_tile = slot.filter;
        for (int64_t w = begin * plane.columns; w < end * plane.columns && w < plane.width;
             w += plane.columns) {
          plane.load_strip(grad_field(item), w, group, slot.tile);
          plane.transform_strip(dct2_line<T>, slot.tile, w, group, slot);
          if (job.grad_coefficients) {
            plane.load_strip(x_field(item), w, group, x_tile);
            plane.transform_strip(dct2_line<T>, x_tile, w, group, slot);
          }
          const int64_t pixels = plane.columns_from(w);
          for (int64_t h = 0; h < plane.height; ++h) {
            const int64_t at = h * plane.row_stride;
            // The forward has checked the diffusivities.
            plane.filter_pixels(job.coefficients, job.kind, group, h, w, pixels, kRowsAhead,
                                slot.other, slot);
            if (job.grad_coefficients) {
              add_coefficient_gradient(job, plane, image, group, h, w, slot.tile + at, x_tile + at,
                                       slot.other, slot);
            }
            multiply_line(slot.tile + at, slot.other, L, pixels * plane.group);
          }
          if (!job.grad_x) continue;
          plane.transform_strip(dct3_line<T>, slot.tile, w, group, slot);
          plane.store_strip(slot.tile, grad_field(item), w, group);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>&, Slot<T>& slot) {
        if (!job.grad_x) return;
        plane.inverse_rows(grad_field(item), job.grad_x, item % batch, item / batch, begin, end,
                           slot);
      });
}
