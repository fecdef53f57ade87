// SPDX-License-Identifier: Apache-2.0
// Intersection over union of rotated boxes, a register of pairs at a time.

RSVHEAT_INLINE Box<Doubles> load_boxes(const BoxTable& table, int64_t first) {
  const auto field = [&](int index)
                         RSVHEAT_INLINE_LAMBDA { return load(table.field(index) + first); };
  return {field(0), field(1), field(2), field(3), {field(4), field(5)}, {field(6), field(7)},
          field(8), field(9)};
}

// The same box in every lane.
RSVHEAT_INLINE Box<Doubles> repeat_box(const BoxTable& table, int64_t index) {
  const auto field = [&](int f) RSVHEAT_INLINE_LAMBDA { return splat(table.field(f)[index]); };
  return {field(0), field(1), field(2), field(3), {field(4), field(5)}, {field(6), field(7)},
          field(8), field(9)};
}

RSVHEAT_INLINE Doubles gather(const double* from, const int32_t* indices) {
#if RSVHEAT_VECTOR_BYTES == 64
  // The masked form: GCC 12 warns that the plain one reads an uninitialised register.
  return _mm512_mask_i32gather_pd(_mm512_setzero_pd(), 0xff,
                                  _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices)),
                                  from, sizeof(double));
#else
  Doubles values;
  for (int i = 0; i < kLanes<double>; ++i) values[i] = from[indices[i]];
  return values;
#endif
}

RSVHEAT_INLINE Box<Doubles> gather_boxes(const BoxTable& table, const int32_t* indices) {
  const auto field = [&](int index)
                         RSVHEAT_INLINE_LAMBDA { return gather(table.field(index), indices); };
  return {field(0), field(1), field(2), field(3), {field(4), field(5)}, {field(6), field(7)},
          field(8), field(9)};
}

RSVHEAT_INLINE void store_box(const BoxTable& table, int64_t first, const Box<Doubles>& box,
                              Doubles exchanged) {
  const Doubles fields[kBoxFields] = {box.x,        box.y,        box.half_w,   box.half_h,
                                      box.cos.high, box.cos.low,  box.sin.high, box.sin.low,
                                      box.extent_x, box.extent_y, exchanged};
  for (int i = 0; i < kBoxFields; ++i) store(table.field(i) + first, fields[i]);
}

template <class T>
void prepare_boxes(const PrepareJob& job, int64_t begin, int64_t end) {
  constexpr int L = kLanes<double>;
  const T* boxes = static_cast<const T*>(job.boxes);
  for (int64_t first = begin * kBoxPadding; first < end * kBoxPadding; first += L) {
    Doubles columns[5] = {}, extent{};
    for (int lane = 0; lane < L; ++lane) {
      if (first + lane >= job.table.count) {
        extent[lane] = -__builtin_inf();
        continue;
      }
      const T* box = boxes + 5 * (job.order ? job.order[first + lane] : first + lane);
      for (int i = 0; i < 5; ++i) columns[i][lane] = static_cast<double>(box[i]);
      if (!(__builtin_fabs(columns[4][lane]) <= kLargestPlainAngle)) {
        columns[4][lane] = __builtin_fmod(columns[4][lane], 360.0);  // of infinity: NaN
      }
    }
    Doubles exchanged;
    Box<Doubles> box =
        prepare(columns[0], columns[1], columns[2], columns[3], columns[4], &exchanged);
    box.extent_x += extent;
    box.extent_y += extent;
    store_box(job.table, first, box, exchanged);
  }
}

// The columns in [first, last) that may touch the box of a row, in ascending order; after them the
// last one is repeated up to a whole register. `first` is a multiple of kBoxPadding.
RSVHEAT_INLINE int64_t near_columns(const BoxTable& rows, int64_t row, const BoxTable& columns,
                                    int64_t first, int64_t last, int32_t* found) {
  constexpr int L = kLanes<double>;
  const Doubles x = splat(rows.field(0)[row]), y = splat(rows.field(1)[row]);
  const Doubles extent_x = splat(rows.field(8)[row]), extent_y = splat(rows.field(9)[row]);
  const double *xs = columns.field(0), *ys = columns.field(1);
  const double *extents_x = columns.field(8), *extents_y = columns.field(9);
  int64_t count = 0;
  for (int64_t j = first; j < last; j += L) {
    const auto apart = apart_along_axes(x, y, extent_x, extent_y, load(xs + j), load(ys + j),
                                        load(extents_x + j), load(extents_y + j));
    unsigned bits = lane_bits(apart) ^ kAllLanes;
    if (last - j < L) bits &= (1u << (last - j)) - 1;  // nothing is apart from an invalid box
    for (; bits; bits &= bits - 1) {
      found[count++] = static_cast<int32_t>(j + __builtin_ctz(bits));
    }
  }
  for (int i = 0; i < L; ++i) found[count + i] = count > 0 ? found[count - 1] : 0;
  return count;
}

// Columns found[k], ..., of which there are `count` in all: often they are neighbors.
RSVHEAT_INLINE Box<Doubles> columns_at(const BoxTable& columns, const int32_t* found, int64_t k,
                                       int64_t count) {
  constexpr int L = kLanes<double>;
  const bool neighbors = k + L <= count && found[k + L - 1] - found[k] == L - 1;
  return neighbors ? load_boxes(columns, found[k]) : gather_boxes(columns, found + k);
}

template <class T>
void iou_matrix(const IouJob& job, int64_t begin, int64_t end) {
  constexpr int L = kLanes<double>;
  const int64_t width = job.columns.count;
  const int64_t parts = (width + kColumns - 1) / kColumns;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / parts, first = item % parts * kColumns;
    const int64_t last = width - first < kColumns ? width : first + kColumns;
    T* out = static_cast<T*>(job.iou) + row * width;
    __builtin_memset(out + first, 0, (last - first) * sizeof(T));
    int32_t found[kColumns + L];
    const int64_t count = near_columns(job.rows, row, job.columns, first, last, found);
    if (count == 0) continue;
    const Box<Doubles> box = repeat_box(job.rows, row);
    for (int64_t k = 0; k < count; k += L) {
      const Doubles iou = intersection_over_union(box, columns_at(job.columns, found, k, count));
      for (int lane = 0; lane < L; ++lane) out[found[k + lane]] = static_cast<T>(iou[lane]);
    }
  }
}

template <class T>
void iou_aligned(const IouJob& job, int64_t begin, int64_t end) {
  constexpr int L = kLanes<double>;
  T* out = static_cast<T*>(job.iou);
  for (int64_t first = begin * kBoxPadding; first < end * kBoxPadding; first += L) {
    const Doubles iou =
        intersection_over_union(load_boxes(job.rows, first), load_boxes(job.columns, first));
    for (int lane = 0; lane < L && first + lane < job.rows.count; ++lane) {
      out[first + lane] = static_cast<T>(iou[lane]);
    }
  }
}

// Rows are work items; aligned pairs are kBoxPadding rows each.
template <class T>
void iou_backward(const IouBackwardJob& job, int64_t begin, int64_t end) {
  constexpr int L = kLanes<double>;
  const T* grad = static_cast<const T*>(job.grad);
  T* out = static_cast<T*>(job.grad_rows);
  if (job.aligned) {
    for (int64_t first = begin * kBoxPadding; first < end * kBoxPadding; first += L) {
      const BoxGradient<Doubles> g =
          gradient_of_first(load_boxes(job.rows, first), load_boxes(job.columns, first),
                            load(job.rows.field(10) + first));
      for (int lane = 0; lane < L && first + lane < job.rows.count; ++lane) {
        const double scale = static_cast<double>(grad[first + lane]);
        const double values[5] = {g.x[lane], g.y[lane], g.w[lane], g.h[lane], g.angle[lane]};
        for (int i = 0; i < 5; ++i) {
          out[5 * (first + lane) + i] = static_cast<T>(values[i] * scale);
        }
      }
    }
    return;
  }
  const int64_t width = job.columns.count;
  for (int64_t row = begin; row < end; ++row) {
    Doubles sums[5] = {};
    const Box<Doubles> box = repeat_box(job.rows, row);
    const Doubles exchanged = splat(job.rows.field(10)[row]);
    for (int64_t first = 0; first < width; first += kColumns) {
      const int64_t last = width - first < kColumns ? width : first + kColumns;
      int32_t found[kColumns + L];
      const int64_t count = near_columns(job.rows, row, job.columns, first, last, found);
      for (int64_t k = 0; k < count; k += L) {
        const BoxGradient<Doubles> g =
            gradient_of_first(box, columns_at(job.columns, found, k, count), exchanged);
        Doubles scale{};  // zero beyond the end
        for (int lane = 0; lane < L && k + lane < count; ++lane) {
          scale[lane] = static_cast<double>(grad[row * width + found[k + lane]]);
        }
        sums[0] += g.x * scale;
        sums[1] += g.y * scale;
        sums[2] += g.w * scale;
        sums[3] += g.h * scale;
        sums[4] += g.angle * scale;
      }
    }
    for (int i = 0; i < 5; ++i) {
      double sum = 0;
      for (int lane = 0; lane < L; ++lane) sum += sums[i][lane];
      out[5 * row + i] = static_cast<T>(sum);
    }
  }
}
