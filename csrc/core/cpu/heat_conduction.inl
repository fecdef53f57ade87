// SPDX-License-Identifier: Apache-2.0
// The heat conduction operator and its gradients. Rows forward, then column by column forward,
// filter and inverse while the column is in L1, then rows inverse. The orthonormal scales of the
// transforms are folded into the filter.

template <class S>
bool heat_conduction(const HeatJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NhwcPlane<S> plane(job);
  const int64_t batch = job.shape.batch, height = plane.height;
  bool valid = true;
  run_items<T>(
      job, plane.items(), 1, height, plane.width,
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.forward_rows(job.x, item % batch, item / batch, begin, end, owner.tile, slot);
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        // Items of one channel block follow each other: its filter is formed once and kept, if
        // this thread has the whole plane and more than one image may use it.
        const int64_t block = item / batch;
        const bool keep_filter = batch > 1 && &owner == &slot;
        Mask<T> invalid{};
        if (keep_filter && slot.cached_block != block) {
          for (int64_t w = begin; w < end; ++w) {
            plane.filter_column(job.coefficients, job.kind, w, block, slot.extra + w * height * L,
                                &invalid);
          }
          slot.cached_block = block;
        }
        for (int64_t w = begin; w < end; ++w) {
          const T* filter = slot.filter_line;
          if (keep_filter) {
            filter = slot.extra + w * height * L;
          } else {
            plane.filter_column(job.coefficients, job.kind, w, block, slot.filter_line, &invalid);
          }
          T* column = owner.tile + w * L;
          dct2_line(plane.height_plan, height, column, plane.row_stride, slot.line, L, slot.work);
          for (int64_t h = 0; h < height; ++h) {
            store(slot.line + h * L, load(slot.line + h * L) * load(filter + h * L));
          }
          dct3_line(plane.height_plan, height, slot.line, L, column, plane.row_stride, slot.work);
        }
        if (any<T>(invalid)) __atomic_store_n(&valid, false, __ATOMIC_RELAXED);
      },
      [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner, Slot<T>& slot) {
        plane.inverse_rows(owner.tile, job.y, item % batch, item / batch, begin, end, slot);
      });
  return valid;
}

// grad_coefficients of column w from the sum over the batch of both transforms' products.
// d filter / dk = -|omega|^2 filter; the squared scales are in `filter` already.
template <class S>
void store_coefficient_gradient(const HeatBackwardJob& job, const NhwcPlane<S>& plane, int64_t w,
                                int64_t block, const Compute<S>* sum, const Compute<S>* filter) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const T* scale_h = plane.height_plan->scale_sq;
  const T scale_w = plane.width_plan->scale_sq[w];
  T* out = static_cast<T*>(job.grad_coefficients) + plane.offset(0, 0, block) + w * plane.channels;
  for (int64_t h = 0; h < plane.height; ++h) {
    Vec<T> gradient = load(sum + h * L);
    if (job.kind == Conduction::kDiffusivity) {
      gradient *=
          load(filter + h * L) * -(plane.height_plan->omega_sq[h] + plane.width_plan->omega_sq[w]);
    } else {
      gradient *= scale_h[h] * scale_w;
    }
    store_first(out + h * plane.width * plane.channels, gradient, plane.lanes_of(block));
  }
}

// Per image: grad_y and x forward, their product added to the sums, grad_y times the filter
// inverse. An item is a channel block with the whole batch, which fixes the order of the sums.
template <class S>
void heat_conduction_backward(const HeatBackwardJob& job) {
  using T = Compute<S>;
  constexpr int L = kLanes<T>;
  const NhwcPlane<S> plane(job);
  const int64_t batch = job.shape.batch, height = plane.height;
  const int64_t tile_size = tile_registers(job.tile) * L;
  const auto columns = [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner,
                           Slot<T>& slot) {
    const int64_t block = item / batch, image = item % batch;
    for (int64_t w = begin; w < end; ++w) {
      T* column = owner.tile + w * L;
      Mask<T> invalid{};  // the forward has checked k
      plane.filter_column(job.coefficients, job.kind, w, block, slot.filter_line, &invalid);
      dct2_line(plane.height_plan, height, column, plane.row_stride, slot.line, L, slot.work);
      if (job.grad_coefficients) {
        const T* x_column = owner.extra + w * L;
        T* sum = owner.extra + tile_size + w * height * L;
        dct2_line(plane.height_plan, height, x_column, plane.row_stride, slot.other_line, L,
                  slot.work);
        for (int64_t h = 0; h < height; ++h) {
          Vec<T> product = load(slot.line + h * L) * load(slot.other_line + h * L);
          if (image > 0) product += load(sum + h * L);
          store(sum + h * L, product);
        }
        if (image + 1 == batch) {
          store_coefficient_gradient(job, plane, w, block, sum, slot.filter_line);
        }
      }
      if (!job.grad_x) continue;
      for (int64_t h = 0; h < height; ++h) {
        store(slot.line + h * L, load(slot.line + h * L) * load(slot.filter_line + h * L));
      }
      dct3_line(plane.height_plan, height, slot.line, L, column, plane.row_stride, slot.work);
    }
  };
  const auto forward_rows = [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner,
                                Slot<T>& slot) {
    const int64_t block = item / batch, image = item % batch;
    plane.forward_rows(job.grad_y, image, block, begin, end, owner.tile, slot);
    if (job.grad_coefficients) {
      plane.forward_rows(job.x, image, block, begin, end, owner.extra, slot);
    }
  };
  const auto inverse_rows = [&](int64_t item, int64_t begin, int64_t end, Slot<T>& owner,
                                Slot<T>& slot) {
    if (!job.grad_x) return;
    plane.inverse_rows(owner.tile, job.grad_x, item % batch, item / batch, begin, end, slot);
  };
  run_items<T>(job, plane.items(), batch, height, plane.width, forward_rows, columns, inverse_rows);
}
