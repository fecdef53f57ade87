// SPDX-License-Identifier: Apache-2.0
// Rows and columns of (B, H, W, C) tensors: an item is one image and kLanes neighbouring channels.

template <class S>
struct NhwcPlane {
  using T = Compute<S>;
  static constexpr int L = kLanes<T>;

  const Job& job;
  int64_t height, width, channels, blocks;
  int64_t row_stride;  // of the tile
  const Plan<T>*height_plan, *width_plan;

  explicit NhwcPlane(const Job& j)
      : job(j),
        height(j.shape.height),
        width(j.shape.width),
        channels(j.shape.channels),
        blocks((j.shape.channels + L - 1) / L),
        row_stride(j.tile.row_registers * L),
        height_plan(static_cast<const Plan<T>*>(j.height_plan)),
        width_plan(static_cast<const Plan<T>*>(j.width_plan)) {}

  int64_t items() const { return blocks * job.shape.batch; }

  int64_t lanes_of(int64_t block) const {
    const int64_t left = channels - block * L;
    return left < L ? left : L;
  }
  int64_t offset(int64_t image, int64_t h, int64_t block) const {
    return (image * height + h) * width * channels + block * L;
  }

  // Rows [begin, end): x -> tile.
  void forward_rows(const void* x, int64_t image, int64_t block, int64_t begin, int64_t end,
                    T* tile, const Slot<T>& slot) const {
    const int64_t lanes = lanes_of(block);
    for (int64_t h = begin; h < end; ++h) {
      const S* row = static_cast<const S*>(x) + offset(image, h, block);
      T* out = tile + h * row_stride;
      if constexpr (sizeof(S) == sizeof(T)) {
        if (lanes == L) {
          dct2_line(width_plan, int(width), reinterpret_cast<const T*>(row), channels, out, L,
                    slot.work);
          continue;
        }
      }
      for (int64_t w = 0; w < width; ++w) store(out + w * L, load_first(row + w * channels, lanes));
      dct2_line(width_plan, int(width), out, L, out, L, slot.work);
    }
  }

  // Rows [begin, end): tile -> y.
  void inverse_rows(const T* tile, void* y, int64_t image, int64_t block, int64_t begin,
                    int64_t end, const Slot<T>& slot) const {
    const int64_t lanes = lanes_of(block);
    for (int64_t h = begin; h < end; ++h) {
      const T* in = tile + h * row_stride;
      S* row = static_cast<S*>(y) + offset(image, h, block);
      if constexpr (sizeof(S) == sizeof(T)) {
        if (lanes == L) {
          dct3_line(width_plan, width, in, L, reinterpret_cast<T*>(row), channels, slot.work);
          continue;
        }
      }
      dct3_line(width_plan, width, in, L, slot.line, L, slot.work);
      for (int64_t w = 0; w < width; ++w)
        store_first(row + w * channels, load(slot.line + w * L), lanes);
    }
  }

  // The filter of column w, times the squared scales of the two transforms. `invalid` collects
  // the lanes whose diffusivity is not >= 0.
  void filter_column(const Coefficients& c, Conduction kind, int64_t w, int64_t block, T* out,
                     Mask<T>* invalid) const {
    const int64_t lanes = c.stride_c ? lanes_of(block) : 1;
    const T* p = static_cast<const T*>(c.data) + w * c.stride_w + block * L * c.stride_c;
    const T* scale_h = height_plan->scale_sq;
    const T scale_w = width_plan->scale_sq[w];
    for (int64_t h = 0; h < height; ++h, p += c.stride_h) {
      const Vec<T> value = c.stride_c ? load_first(p, lanes) : splat(*p);
      Vec<T> filter = value;
      if (kind == Conduction::kDiffusivity) {
        *invalid |= ~(value >= T(0));
        filter = exp_nonpositive(-value * (height_plan->omega_sq[h] + width_plan->omega_sq[w]));
      }
      store(out + h * L, filter * (scale_h[h] * scale_w));
    }
  }
};
