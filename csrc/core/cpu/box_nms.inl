// SPDX-License-Identifier: Apache-2.0
// The two parts of non-maximum suppression that take time. boxes.cpp goes through the boxes block
// by block in order of their scores: it has a block's members compared with the boxes that stay,
// then with each other, and decides one by one.

// Collects candidates until they fill a register, and computes their ratios with one box.
template <class T, class Report>
struct Candidates {
  const NmsJob& job;
  const Box<Doubles> box;
  const Report& report;  // bool(tag): called for those beyond the threshold; true ends the search
  int32_t ranks[kLanes<double>], tags[kLanes<double>];
  int count = 0;

  RSVHEAT_INLINE bool add(int32_t rank, int32_t tag) {
    ranks[count] = rank;
    tags[count++] = tag;
    return count == kLanes<double> && flush();
  }

  RSVHEAT_INLINE bool flush() {
    if (count == 0) return false;
    for (int i = count; i < kLanes<double>; ++i) ranks[i] = ranks[count - 1];
    const Doubles iou = intersection_over_union(box, gather_boxes(job.table, ranks));
    for (int i = 0; i < count; ++i) {
      // Rounded first: exactly what box_iou_rotated returns is compared.
      if (static_cast<double>(static_cast<T>(iou[i])) > job.threshold && report(tags[i])) {
        return true;
      }
    }
    count = 0;
    return false;
  }
};

// A box in every lane, for the search of those near it.
struct Query {
  Doubles x, y, extent_x, extent_y, label, min_x, max_x, min_y, max_y;

  RSVHEAT_INLINE Query(const BoxTable& table, const double* labels, int64_t rank)
      : x(splat(table.field(0)[rank])),
        y(splat(table.field(1)[rank])),
        extent_x(splat(table.field(8)[rank])),
        extent_y(splat(table.field(9)[rank])),
        label(splat(labels[rank])),
        min_x(x - extent_x),
        max_x(x + extent_x),
        min_y(y - extent_y),
        max_y(y + extent_y) {}

  // Which of the boxes first, ..., in a register, it may touch.
  RSVHEAT_INLINE unsigned touched(const NearBoxes& boxes, int64_t first) const {
    const auto apart =
        apart_along_axes(x, y, extent_x, extent_y, load(boxes.x + first), load(boxes.y + first),
                         load(boxes.extent_x + first), load(boxes.extent_y + first)) |
        (load(boxes.label + first) != label);
    return lane_bits(apart) ^ kAllLanes;
  }

  RSVHEAT_INLINE unsigned touched(const GroupBounds& groups, int64_t first) const {
    const auto apart = (load(groups.min_x + first) > max_x) | (load(groups.max_x + first) < min_x) |
                       (load(groups.min_y + first) > max_y) | (load(groups.max_y + first) < min_y) |
                       (load(groups.min_label + first) > label) |
                       (load(groups.max_label + first) < label);
    return lane_bits(apart) ^ kAllLanes;
  }
};

// Calls visit(index) for the members of [begin, end) that are touched, until one returns true; both
// bounds are multiples of the register.
template <class Members, class Visit>
RSVHEAT_INLINE bool visit_touched(const Query& query, const Members& members, int64_t begin,
                                  int64_t end, const Visit& visit) {
  for (int64_t i = begin; i < end; i += kLanes<double>) {
    for (unsigned bits = query.touched(members, i); bits; bits &= bits - 1) {
      if (visit(i + __builtin_ctz(bits))) return true;
    }
  }
  return false;
}

template <class T>
void nms_against_kept(const NmsJob& job, int64_t begin, int64_t end) {
  const auto found_one = [](int32_t) { return true; };
  for (int64_t i = begin; i < end; ++i) {
    const int64_t rank = job.block.rank[i];
    const Query query(job.table, job.labels, rank);
    Candidates<T, decltype(found_one)> candidates{
        job, repeat_box(job.table, rank), found_one, {}, {}};
    job.suppressed[i] =
        visit_touched(query, job.supergroups, 0, job.supergroups.count,
                      [&](int64_t s) RSVHEAT_INLINE_LAMBDA {
                        return visit_touched(query, job.groups, s * kGroup, (s + 1) * kGroup,
                                             [&](int64_t g) RSVHEAT_INLINE_LAMBDA {
                                               return visit_touched(
                                                   query, job.kept, g * kGroup, (g + 1) * kGroup,
                                                   [&](int64_t k) RSVHEAT_INLINE_LAMBDA {
                                                     return candidates.add(job.kept.rank[k], 0);
                                                   });
                                             });
                      }) ||
        visit_touched(query, job.latest, 0, job.latest.count,
                      [&](int64_t k) RSVHEAT_INLINE_LAMBDA {
                        return candidates.add(job.latest.rank[k], 0);
                      }) ||
        candidates.flush();
  }
}

template <class T>
void nms_within_block(const NmsJob& job, int64_t begin, int64_t end) {
  constexpr int L = kLanes<double>;
  const int64_t count = job.block.count;
  for (int64_t item = begin; item < end; ++item) {
    // The first members have the most others after them: long and short ones in turn.
    const int64_t i = item % 2 ? count - 1 - item / 2 : item / 2;
    uint64_t* overlaps = job.overlaps + i * job.words;
    __builtin_memset(overlaps, 0, job.words * sizeof(uint64_t));
    const auto mark = [&](int32_t j) {
      overlaps[j / 64] |= uint64_t{1} << (j % 64);
      return false;
    };
    const int64_t rank = job.block.rank[i];
    const Query query(job.table, job.labels, rank);
    Candidates<T, decltype(mark)> candidates{job, repeat_box(job.table, rank), mark, {}, {}};
    visit_touched(query, job.block, (i + 1) / L * L, count, [&](int64_t j) RSVHEAT_INLINE_LAMBDA {
      if (j > i) candidates.add(job.block.rank[j], static_cast<int32_t>(j));
      return false;
    });
    candidates.flush();
  }
}
