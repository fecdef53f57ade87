// SPDX-License-Identifier: Apache-2.0
// The heat conduction operator and its gradients. Rows forward, then column by column forward,
// filter and inverse while the column is in L1, then rows inverse. The orthonormal scales of the
// transforms are folded into the filter. Planes that exceed the cache: heat_conduction_strips.inl.

template <class S>
bool heat_conduction(const HeatJob& job) {
  using T = Compute<S>;
  if (in_strips(job.shape, job.tile)) return heat_conduction_in_strips<S>(job);
  const NhwcPlane<S> plane(job);
  const int64_t batch = job.shape.batch;
  bool valid = true;
  run_items<T>(
      job, plane.items(), 1, plane.height, plane.width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item / batch, image = item % batch;
        plane.forward_rows(job.x, image, group, begin, end, owner.tile, slot);
        // A group's images follow each other, so that a thread forms its filter once.
        if (&owner == &slot && owner.filter_group == group) return;
        if (!plane.filter_rows(job.coefficients, job.kind, group, begin, end, owner.filter, slot)) {
          __atomic_store_n(&valid, false, __ATOMIC_RELAXED);
        }
        slot.filter_group = group;
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.for_each_column(begin, end, item / batch, [&](int64_t at) {
          plane.column_in(dct2_line<T>, owner.tile + at, slot.lines, slot);
          multiply_line(slot.lines, owner.filter + at, plane.row_stride, plane.height);
          plane.column_out(dct3_line<T>, slot.lines, owner.tile + at, slot);
        });
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.inverse_rows(owner.tile, job.y, item % batch, item / batch, begin, end, slot);
      });
  return valid;
}

// Rows [begin, end) of grad_coefficients from the sums over the batch.
template <class S>
void store_coefficient_gradient(const HeatBackwardJob& job, const NhwcPlane<S>& plane,
                                int64_t group, int64_t begin, int64_t end, const Compute<S>* sums,
                                const Compute<S>* filter, const Slot<Compute<S>>& slot) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const int64_t run = plane.group * L, count = plane.channels_of(group);
  for (int64_t h = begin; h < end; ++h) {
    for (int64_t w = 0; w < plane.width; ++w) {
      for (int64_t c = 0; c < count; c += L) {
        const int64_t at = h * plane.row_stride + w * run + c;
        store(slot.lines + w * run + c,
              load(sums + at) * coefficient_factor(job.kind, plane, h, w, filter + at));
      }
    }
    store_runs(slot.lines, run, plane.width, count,
               static_cast<T*>(job.grad_coefficients) + plane.offset(0, h, group), plane.channels);
  }
}

// Per image: grad_y and x forward, their product added up, grad_y times the filter inverse. A
// thread takes a channel group with the whole batch, which fixes the order of the sums.
template <class S>
void heat_conduction_backward(const HeatBackwardJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  if (in_strips(job.shape, job.tile)) return heat_conduction_backward_in_strips<S>(job);
  const NhwcPlane<S> plane(job);
  const int64_t batch = job.shape.batch, height = plane.height;
  const int64_t tile_size = tile_registers(job.tile) * L;
  run_items<T>(
      job, plane.items(), batch, height, plane.width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item / batch, image = item % batch;
        plane.forward_rows(job.grad_y, image, group, begin, end, owner.tile, slot);
        if (job.grad_coefficients) {
          plane.forward_rows(job.x, image, group, begin, end, owner.extra, slot);
        }
        // The forward has checked the diffusivities.
        if (image == 0) {
          plane.filter_rows(job.coefficients, job.kind, group, begin, end, owner.filter, slot);
        }
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        T* x_tile = owner.extra;
        T* sums = x_tile + tile_size;
        plane.for_each_column(begin, end, item / batch, [&](int64_t at) {
          plane.column_in(dct2_line<T>, owner.tile + at, slot.lines, slot);
          if (job.grad_coefficients) {
            plane.column_in(dct2_line<T>, x_tile + at, slot.other, slot);
            for (int64_t h = 0; h < height; ++h) {
              T* sum = sums + at + h * plane.row_stride;
              Vec<T> product = load(slot.lines + h * L) * load(slot.other + h * L);
              if (item % batch > 0) product += load(sum);
              store(sum, product);
            }
          }
          if (!job.grad_x) return;
          multiply_line(slot.lines, owner.filter + at, plane.row_stride, height);
          plane.column_out(dct3_line<T>, slot.lines, owner.tile + at, slot);
        });
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        const int64_t group = item / batch, image = item % batch;
        if (job.grad_x) {
          plane.inverse_rows(owner.tile, job.grad_x, image, group, begin, end, slot);
        }
        if (job.grad_coefficients && image + 1 == batch) {
          store_coefficient_gradient(job, plane, group, begin, end, owner.extra + tile_size,
                                     owner.filter, slot);
        }
      });
}
