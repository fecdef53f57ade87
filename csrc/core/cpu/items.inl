// SPDX-License-Identifier: Apache-2.0
// How the 2-D kernels walk over their work items (one image and a group of channels, or one
// image plane): rows, then columns, then rows again, with the item's plane in a tile that stays in
// cache in between. Items are spread over the threads; if there are fewer items than threads, or a
// tile holds only a strip of the plane (strips.inl), the threads share each plane instead. Neither
// way changes a result.

// A thread's share of the work space.
template <class T>
struct Slot {
  T* tile;
  T* lines;   // a row, or a column
  T* other;   // another
  T* work;    // scratch of the line transforms
  T* filter;  // a second tile if the job asked for one: of the filter, or a strip of x
  T* extra;   // further tiles that the job asked for
  int64_t filter_group = -1;

  Slot(const Job& job, int index) {
    tile = reinterpret_cast<T*>(job.workspace.data + index * job.workspace.slot_bytes);
    lines = tile + tile_registers(job.tile) * kLanes<T>;
    other = lines + job.tile.lines * kLanes<T>;
    work = other + job.tile.lines * kLanes<T>;
    filter = lines + line_registers(job.tile) * kLanes<T>;
    extra = filter + tile_registers(job.tile) * kLanes<T>;
  }
};

// Calls body(slot, begin, end) on disjoint ranges covering [0, count), each with a slot of its own.
template <class T, class Body>
void parallel_over(const Job& job, int64_t count, const Body& body) {
  struct Context {
    const Job* job;
    const Body* body;
    int64_t count, slots;
  };
  const int64_t slots = count < job.workspace.slots ? count : job.workspace.slots;
  Context context{&job, &body, count, slots};
  job.parallel->run(
      slots,
      [](void* p, int64_t begin, int64_t end) {
        const Context& c = *static_cast<const Context*>(p);
        for (int64_t index = begin; index < end; ++index) {
          Slot<T> slot(*c.job, static_cast<int>(index));
          (*c.body)(slot, index* c.count / c.slots, (index + 1) * c.count / c.slots);
        }
      },
      &context);
}

// A pass over part of an item's plane: pass(item, begin, end, plane's slot, own slot).
struct NoPass {
  template <class T>
  void operator()(int64_t, int64_t, int64_t, Slot<T>&, Slot<T>&) const {}
};

// The three passes over each of `items` planes, cut into row_parts, column_parts and row_parts.
// `group` consecutive items go to one thread, in order.
template <class T, class First, class Second, class Third>
void run_items(const Job& job, int64_t items, int64_t group, int64_t row_parts,
               int64_t column_parts, const First& first, const Second& second, const Third& third) {
  if (items >= job.workspace.slots * group && !in_strips(job.shape, job.tile)) {
    parallel_over<T>(job, items / group, [&](Slot<T>& slot, int64_t begin, int64_t end) {
      for (int64_t item = begin * group; item < end * group; ++item) {
        first(item, 0, row_parts, slot, slot);
        second(item, 0, column_parts, slot, slot);
        third(item, 0, row_parts, slot, slot);
      }
    });
    return;
  }
  Slot<T> plane(job, 0);
  for (int64_t item = 0; item < items; ++item) {
    parallel_over<T>(job, row_parts, [&](Slot<T>& slot, int64_t begin, int64_t end) {
      first(item, begin, end, plane, slot);
    });
    parallel_over<T>(job, column_parts, [&](Slot<T>& slot, int64_t begin, int64_t end) {
      second(item, begin, end, plane, slot);
    });
    if constexpr (!__is_same(Third, NoPass)) {
      parallel_over<T>(job, row_parts, [&](Slot<T>& slot, int64_t begin, int64_t end) {
        third(item, begin, end, plane, slot);
      });
    }
  }
}
