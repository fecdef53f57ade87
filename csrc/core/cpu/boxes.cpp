// SPDX-License-Identifier: Apache-2.0
// The public CPU entry points for rotated boxes.

#include "../boxes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "boxes_jobs.h"
#include "dispatch.h"

#define RSVHEAT_MATH inline

namespace rsvheat {
namespace {

#include "../roi_align_math.inl"

const BoxKernels& box_kernels() {
  switch (cpu_capability()) {
#if defined(RSVHEAT_X86_KERNELS)
    case CpuCapability::kAvx512:
      return kBoxKernelsAvx512;
    case CpuCapability::kAvx2:
      return kBoxKernelsAvx2;
#endif
    default:
      return kBoxKernelsGeneric;
  }
}

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Calls body(begin, end, slot) on ranges that cover [0, count), as many as are worth a thread each:
// `cost` is the work of an item in nanoseconds, about.
template <class Body>
void spread(const ParallelFor& parallel, int64_t count, double cost, const Body& body) {
  constexpr double kWorthAThread = 20000;
  if (count == 0) return;
  const auto worth =
      static_cast<int64_t>(std::min(cost * static_cast<double>(count) / kWorthAThread, 1e6));
  struct Context {
    const Body* body;
    int64_t count, slots;
  };
  const int64_t threads = std::max(parallel.num_threads, 1);
  Context context{&body, count, std::clamp<int64_t>(worth, 1, std::min(count, threads))};
  if (context.slots == 1) return body(0, count, 0);
  parallel.run(
      context.slots,
      [](void* p, int64_t begin, int64_t end) {
        const Context& c = *static_cast<const Context*>(p);
        for (int64_t slot = begin; slot < end; ++slot) {
          (*c.body)(c.count* slot / c.slots, c.count * (slot + 1) / c.slots, slot);
        }
      },
      &context);
}

constexpr double kPrepareCost = 50, kNearCost = 0.7, kPairCost = 10;

// Prepared boxes, in their own order or in another.
class PreparedBoxes {
 public:
  PreparedBoxes(const void* boxes, int64_t count, const int64_t* order, DType dtype,
                const ParallelFor& parallel)
      : fields_(
            std::make_unique_for_overwrite<double[]>(kBoxFields * round_up(count, kBoxPadding))),
        table_{fields_.get(), round_up(count, kBoxPadding), count} {
    const PrepareJob job{boxes, order, table_};
    const auto kernel = box_kernels().prepare[static_cast<int>(dtype)];
    spread(parallel, table_.stride / kBoxPadding, kBoxPadding * kPrepareCost,
           [&](int64_t begin, int64_t end, int64_t) { kernel(job, begin, end); });
  }

  const BoxTable& table() const { return table_; }

 private:
  std::unique_ptr<double[]> fields_;
  BoxTable table_;
};

// ---- Non-maximum suppression --------------------------------------------------------------------

// The bits of `value` spread out to every second place.
uint32_t spread_bits(uint32_t value) {
  value = (value | (value << 8)) & 0x00ff00ffu;
  value = (value | (value << 4)) & 0x0f0f0f0fu;
  value = (value | (value << 2)) & 0x33333333u;
  return (value | (value << 1)) & 0x55555555u;
}

struct Interval {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void include(const Interval& other) {
    include(other.low);
    include(other.high);
  }
};

// A list of boxes as the search for those near another one takes it.
class BoxList {
 public:
  void clear() { ranks_.clear(); }
  void add(int32_t rank) { ranks_.push_back(rank); }
  const std::vector<int32_t>& ranks() const { return ranks_; }

  // After the last add(); at least `padding` boxes, and a multiple of that.
  NearBoxes fill(const BoxTable& table, const std::vector<double>& labels, int64_t padding) {
    constexpr int kFields[4] = {0, 1, 8, 9};
    const int64_t count = static_cast<int64_t>(ranks_.size()), padded = round_up(count, padding);
    for (auto& column : columns_) column.resize(padded);
    for (int64_t i = 0; i < padded; ++i) {
      for (int f = 0; f < 4; ++f) {
        columns_[f][i] = i < count ? table.field(kFields[f])[ranks_[i]]
                                   : -std::numeric_limits<double>::infinity();
      }
      columns_[4][i] = i < count ? labels[ranks_[i]] : -1.0;
    }
    return {columns_[0].data(),
            columns_[1].data(),
            columns_[2].data(),
            columns_[3].data(),
            columns_[4].data(),
            ranks_.data(),
            count};
  }

 private:
  std::vector<int32_t> ranks_;
  std::array<std::vector<double>, 5> columns_;
};

// The boxes that stay. They are sorted such that neighbors are of one label, of similar size and
// near each other (along a space-filling curve), with bounds of each 16 and each 256 of them. The
// latest ones wait in a list until they are worth being merged.
class KeptBoxes {
 public:
  KeptBoxes(const BoxTable& table, const std::vector<double>& labels)
      : table_(table), labels_(labels), keys_(table.count) {
    Interval x, y;
    for (int64_t i = 0; i < table.count; ++i) {
      x.include(table.field(0)[i]);
      y.include(table.field(1)[i]);
    }
    const auto place = [](double value, const Interval& all) {
      const double extent = all.high - all.low;
      return extent > 0 ? static_cast<uint32_t>((value - all.low) / extent * 4095.0) : 0u;
    };
    for (int64_t i = 0; i < table.count; ++i) {
      const double size = std::max(table.field(8)[i], table.field(9)[i]);
      // Sizes by factors of four.
      const int level = size > 0 ? std::clamp(std::ilogb(size) / 2 + 64, 0, 127) : 0;
      keys_[i] = static_cast<uint64_t>(labels[i]) << 32 | static_cast<uint64_t>(level) << 24 |
                 spread_bits(place(table.field(0)[i], x)) |
                 spread_bits(place(table.field(1)[i], y)) << 1;
    }
  }

  void add(int32_t rank) { latest_.add(rank); }

  // After a block's last add().
  void update(NmsJob* job) {
    constexpr size_t kFewest = 256, kShare = 16;
    if (latest_.ranks().size() > std::max(kFewest, sorted_.ranks().size() / kShare)) merge(job);
    job->latest = latest_.fill(table_, labels_, kBoxPadding);
  }

 private:
  void merge(NmsJob* job) {
    const auto before = [&](int32_t a, int32_t b) {
      return keys_[a] != keys_[b] ? keys_[a] < keys_[b] : a < b;
    };
    std::vector<int32_t> late = latest_.ranks();
    std::sort(late.begin(), late.end(), before);
    BoxList merged;
    const std::vector<int32_t>& early = sorted_.ranks();
    for (auto a = early.begin(), b = std::as_const(late).begin();
         a != early.end() || b != late.end();) {
      merged.add(b == late.end() || (a != early.end() && before(*a, *b)) ? *a++ : *b++);
    }
    latest_.clear();
    sorted_ = std::move(merged);
    job->kept = sorted_.fill(table_, labels_, kGroup * kGroup);

    std::vector<std::array<Interval, 3>> bounds(round_up(job->kept.count, kGroup));
    for (int64_t i = 0; i < job->kept.count; ++i) {
      const double x = job->kept.x[i], extent_x = job->kept.extent_x[i];
      const double y = job->kept.y[i], extent_y = job->kept.extent_y[i];
      // Wider by some units in the last place: a group must not be left out for a rounding error.
      const double reach_x = extent_x + 1e-15 * (std::fabs(x) + extent_x);
      const double reach_y = extent_y + 1e-15 * (std::fabs(y) + extent_y);
      bounds[i][0] = {x - reach_x, x + reach_x};
      bounds[i][1] = {y - reach_y, y + reach_y};
      bounds[i][2] = {job->kept.label[i], job->kept.label[i]};
    }
    job->groups = group(&bounds, &group_bounds_);
    job->supergroups = group(&bounds, &supergroup_bounds_);
  }

  // Replaces the bounds by those of their groups.
  static GroupBounds group(std::vector<std::array<Interval, 3>>* bounds,
                           std::vector<double>* values) {
    std::vector<std::array<Interval, 3>> groups(
        round_up(round_up(static_cast<int64_t>(bounds->size()), kGroup) / kGroup, kGroup));
    for (size_t i = 0; i < bounds->size(); ++i) {
      for (int axis = 0; axis < 3; ++axis) groups[i / kGroup][axis].include((*bounds)[i][axis]);
    }
    const int64_t count = static_cast<int64_t>(groups.size());
    values->resize(6 * count);
    double* v = values->data();
    for (int64_t g = 0; g < count; ++g) {
      for (int axis = 0; axis < 3; ++axis) {
        v[2 * axis * count + g] = groups[g][axis].low;
        v[(2 * axis + 1) * count + g] = groups[g][axis].high;
      }
    }
    *bounds = std::move(groups);
    return {v, v + count, v + 2 * count, v + 3 * count, v + 4 * count, v + 5 * count, count};
  }

  const BoxTable& table_;
  const std::vector<double>& labels_;
  std::vector<uint64_t> keys_;
  BoxList sorted_, latest_;
  std::vector<double> group_bounds_, supergroup_bounds_;
};

// Labels in order[], as consecutive numbers.
std::vector<double> dense_labels(const int64_t* labels, const int64_t* order, int64_t n) {
  std::vector<double> dense(n, 0.0);
  if (!labels) return dense;
  std::vector<int64_t> distinct(labels, labels + n);
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (int64_t i = 0; i < n; ++i) {
    const auto at = std::lower_bound(distinct.begin(), distinct.end(), labels[order[i]]);
    dense[i] = static_cast<double>(at - distinct.begin());
  }
  return dense;
}

}  // namespace

void box_iou_rotated_cpu(const void* boxes1, int64_t n, const void* boxes2, int64_t m, bool aligned,
                         void* iou, DType dtype, const ParallelFor& parallel) {
  if (n == 0 || m == 0) return;
  const PreparedBoxes rows(boxes1, n, nullptr, dtype, parallel);
  const PreparedBoxes columns(boxes2, m, nullptr, dtype, parallel);
  const IouJob job{rows.table(), columns.table(), iou};
  const auto kernel = aligned ? box_kernels().iou_aligned[static_cast<int>(dtype)]
                              : box_kernels().iou_matrix[static_cast<int>(dtype)];
  const int64_t items =
      aligned ? round_up(n, kBoxPadding) / kBoxPadding : n * ((m + kColumns - 1) / kColumns);
  const double cost =
      aligned ? kBoxPadding * kPairCost : kNearCost * static_cast<double>(std::min(m, kColumns));
  spread(parallel, items, cost,
         [&](int64_t begin, int64_t end, int64_t) { kernel(job, begin, end); });
}

void box_iou_rotated_backward_cpu(const void* grad, const void* boxes1, int64_t n,
                                  const void* boxes2, int64_t m, bool aligned, void* grad_boxes1,
                                  DType dtype, const ParallelFor& parallel) {
  if (n == 0) return;
  const PreparedBoxes rows(boxes1, n, nullptr, dtype, parallel);
  const PreparedBoxes columns(boxes2, m, nullptr, dtype, parallel);
  const IouBackwardJob job{rows.table(), columns.table(), aligned, grad, grad_boxes1};
  const auto kernel = box_kernels().iou_backward[static_cast<int>(dtype)];
  const int64_t items = aligned ? round_up(n, kBoxPadding) / kBoxPadding : n;
  const double cost = aligned ? kBoxPadding * kPairCost : kNearCost * static_cast<double>(m);
  spread(parallel, items, cost,
         [&](int64_t begin, int64_t end, int64_t) { kernel(job, begin, end); });
}

int64_t nms_rotated_cpu(const void* boxes, const int64_t* order, const int64_t* labels, int64_t n,
                        double threshold, bool* keep, DType dtype, const ParallelFor& parallel) {
  if (n == 0) return -1;
  const PreparedBoxes prepared(boxes, n, order, dtype, parallel);
  const BoxTable& table = prepared.table();
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(table.field(0)[i])) return order[i];
  }
  const std::vector<double> dense = dense_labels(labels, order, n);
  KeptBoxes kept(table, dense);
  NmsJob job{};
  job.table = table;
  job.labels = dense.data();
  job.threshold = threshold;

  // The first boxes suppress the most: with small blocks at first, few are compared in vain.
  constexpr int64_t kFirstBlock = 64, kLargestBlock = 1024;
  BoxList members, survivors;
  const std::unique_ptr<bool[]> suppressed(new bool[kLargestBlock]);
  job.suppressed = suppressed.get();
  std::vector<uint64_t> overlaps, removed;
  const auto against_kept = box_kernels().nms_against_kept[static_cast<int>(dtype)];
  const auto within_block = box_kernels().nms_within_block[static_cast<int>(dtype)];
  std::fill(keep, keep + n, false);
  for (int64_t first = 0, size = kFirstBlock; first < n; first += size) {
    if (first >= 2 * size && size < kLargestBlock) size *= 2;
    members.clear();
    for (int64_t i = first; i < std::min(first + size, n); ++i) {
      members.add(static_cast<int32_t>(i));
    }
    job.block = members.fill(table, dense, kBoxPadding);
    spread(parallel, job.block.count, 20 * kPairCost,
           [&](int64_t begin, int64_t end, int64_t) { against_kept(job, begin, end); });

    survivors.clear();
    for (int64_t i = 0; i < job.block.count; ++i) {
      if (!suppressed[i]) survivors.add(members.ranks()[i]);
    }
    job.block = survivors.fill(table, dense, kBoxPadding);
    const int64_t count = job.block.count;
    job.words = (count + 63) / 64;
    overlaps.resize(count * job.words);
    job.overlaps = overlaps.data();
    spread(parallel, count, kNearCost * static_cast<double>(count),
           [&](int64_t begin, int64_t end, int64_t) { within_block(job, begin, end); });

    removed.assign(job.words, 0);
    for (int64_t i = 0; i < count; ++i) {
      if (removed[i / 64] >> (i % 64) & 1) continue;
      keep[survivors.ranks()[i]] = true;
      kept.add(survivors.ranks()[i]);
      for (int64_t w = i / 64; w < job.words; ++w) removed[w] |= overlaps[i * job.words + w];
    }
    kept.update(&job);
  }
  return -1;
}

// ---- RoIAlign -----------------------------------------------------------------------------------

namespace {

// Returns -1, or the number of a box whose image there is not.
int64_t make_rois(const double* boxes, int64_t k, RoiGrid grid, Shape shape,
                  std::vector<Roi>* rois) {
  rois->resize(k);
  for (int64_t i = 0; i < k; ++i) {
    if (!is_image(boxes[6 * i], shape.batch)) return i;
    (*rois)[i] = make_roi(boxes + 6 * i, shape.batch, grid.height, grid.width, grid.scale,
                          grid.sampling_ratio);
  }
  return -1;
}

size_t compute_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
}

size_t storage_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : dtype == DType::kFloat32 ? sizeof(float) : 2;
}

// How many points of a box lie on the image, at most: they are within its bounds and a pixel
// around.
double points_at_most(const Roi& roi, RoiGrid grid, Shape shape) {
  if (roi.image < 0) return 0;
  const double all = static_cast<double>(roi.samples_x) * static_cast<double>(roi.samples_y) *
                     static_cast<double>(grid.width * grid.height);
  const double step_x = roi.bin_w / static_cast<double>(std::max<int64_t>(roi.samples_x, 1));
  const double step_y = roi.bin_h / static_cast<double>(std::max<int64_t>(roi.samples_y, 1));
  const double diagonal =
      static_cast<double>(shape.height + 2) + static_cast<double>(shape.width + 2);
  const double across = std::min(static_cast<double>(roi.samples_x * grid.width),
                                 diagonal / std::max(step_x, 1e-300) + 1);
  const double down = std::min(static_cast<double>(roi.samples_y * grid.height),
                               diagonal / std::max(step_y, 1e-300) + 1);
  return std::min(all, across * down);
}

double points_at_most(const std::vector<Roi>& rois, RoiGrid grid, Shape shape) {
  double count = 0;
  for (const Roi& roi : rois) count += points_at_most(roi, grid, shape);
  return count;
}

// Whether NCHW features are resampled plane by plane: a point costs about as much as twice that
// many pixels cost to be copied.
bool few_points(double points, const std::vector<Roi>& rois, Shape shape) {
  std::vector<bool> used(shape.batch, false);
  double pixels = 0;
  for (const Roi& roi : rois) {
    if (roi.image < 0 || used[roi.image]) continue;
    used[roi.image] = true;
    pixels += static_cast<double>(shape.height * shape.width);
  }
  return 2 * points <= pixels;
}

// The points of all bins, in order.
template <class T>
struct SampleTable {
  std::vector<RoiSample<T>> samples;
  std::vector<int64_t> begins;

  SampleTable(const std::vector<Roi>& rois, RoiGrid grid, Shape shape) {
    begins.push_back(0);
    for (const Roi& roi : rois) {
      const Window window = image_window(roi, shape);
      const double share = 1.0 / samples_in_bin(roi);
      for (int64_t bin = 0; bin < grid.height * grid.width; ++bin) {
        if (roi.image >= 0) add(roi, window, share, bin / grid.width, bin % grid.width, shape);
        begins.push_back(static_cast<int64_t>(samples.size()));
      }
    }
  }

  void add(const Roi& roi, const Window& window, double share, int64_t bin_y, int64_t bin_x,
           Shape shape) {
    const Range rows =
        samples_within(window.min_y, window.max_y, roi.start_y, roi.bin_h, bin_y, roi.samples_y);
    const Range columns =
        samples_within(window.min_x, window.max_x, roi.start_x, roi.bin_w, bin_x, roi.samples_x);
    for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
      const double y = along_axis(roi.start_y, roi.bin_h, bin_y, iy, roi.samples_y);
      for (int64_t ix = columns.begin; ix < columns.end; ++ix) {
        const double x = along_axis(roi.start_x, roi.bin_w, bin_x, ix, roi.samples_x);
        Corners corners;
        if (find_corners(roi, x, y, shape.height, shape.width, &corners)) {
          samples.push_back(sample_of<T>(corners, shape.width, share));
        }
      }
    }
  }
};

// run(job) with the table of the compute type.
template <class Run>
void with_samples(const std::vector<Roi>& rois, RoiAlignJob job, DType dtype, const Run& run) {
  const auto go = [&](const auto& table) {
    job.samples = table.samples.data();
    job.bin_begins = table.begins.data();
    run(job);
  };
  if (dtype == DType::kFloat64) {
    go(SampleTable<double>(rois, job.grid, job.shape));
  } else {
    go(SampleTable<float>(rois, job.grid, job.shape));
  }
}

}  // namespace

int64_t roi_align_rotated_cpu(const void* x, const double* boxes, int64_t k, RoiGrid grid, void* y,
                              DType dtype, Shape shape, Layout layout,
                              const ParallelFor& parallel) {
  std::vector<Roi> rois;
  const int64_t invalid = make_rois(boxes, k, grid, shape, &rois);
  const int64_t bins = grid.height * grid.width;
  if (invalid >= 0 || k * bins * shape.channels == 0) return invalid;
  RoiAlignJob job{};
  job.rois = rois.data();
  job.count = k;
  job.grid = grid;
  job.shape = shape;
  job.x = x;
  job.y = y;
  job.layout = layout;
  job.block_channels = 32;
  const RoiAlignKernels& kernel = box_kernels().roi_align[static_cast<int>(dtype)];
  const double points = points_at_most(rois, grid, shape);
  const double channels = static_cast<double>(shape.channels);

  if (layout == Layout::kNchw && few_points(points, rois, shape)) {
    with_samples(rois, job, dtype, [&](const RoiAlignJob& with_table) {
      const int64_t blocks = (shape.channels + job.block_channels - 1) / job.block_channels;
      spread(parallel, k * blocks, points * channels * 2 / static_cast<double>(k * blocks),
             [&](int64_t begin, int64_t end, int64_t slot) {
               kernel.forward_planes(with_table, begin, end, slot);
             });
    });
    return -1;
  }
  // A bin's sums; for NCHW all bins of a box, too.
  const auto lanes = static_cast<int64_t>(box_kernels().vector_bytes / compute_bytes(dtype));
  const int64_t rows = layout == Layout::kNchw ? bins + 1 : 1;
  job.scratch_bytes = rows * round_up(shape.channels, lanes) * compute_bytes(dtype);
  const int64_t slots = std::max(parallel.num_threads, 1);
  const auto scratch = std::make_unique_for_overwrite<std::byte[]>(slots * job.scratch_bytes);
  job.scratch = scratch.get();
  const double box_cost = points / static_cast<double>(k) * channels * 0.3;
  if (layout == Layout::kNhwc) {
    spread(
        parallel, k * grid.height, box_cost / static_cast<double>(grid.height),
        [&](int64_t begin, int64_t end, int64_t slot) { kernel.forward(job, begin, end, slot); });
    return -1;
  }
  const int64_t pixels = shape.height * shape.width;
  const auto copy =
      std::make_unique_for_overwrite<std::byte[]>(pixels * shape.channels * compute_bytes(dtype));
  job.pixels = copy.get();
  for (job.image = 0; job.image < shape.batch; ++job.image) {
    const auto here = [&](const Roi& roi) {
      return roi.image == job.image || (roi.image < 0 && job.image == 0);
    };
    if (std::none_of(rois.begin(), rois.end(), here)) continue;
    spread(
        parallel, (pixels + kPixels - 1) / kPixels, kPixels * channels,
        [&](int64_t begin, int64_t end, int64_t slot) { kernel.to_pixels(job, begin, end, slot); });
    spread(parallel, k, box_cost, [&](int64_t begin, int64_t end, int64_t slot) {
      kernel.forward_pixels(job, begin, end, slot);
    });
  }
  return -1;
}

int64_t roi_align_rotated_backward_cpu(const void* grad_y, const double* boxes, int64_t k,
                                       RoiGrid grid, void* grad_x, DType dtype, Shape shape,
                                       Layout layout, const ParallelFor& parallel) {
  std::vector<Roi> rois;
  const int64_t invalid = make_rois(boxes, k, grid, shape, &rois);
  const int64_t pixels = shape.height * shape.width, bins = grid.height * grid.width;
  if (invalid >= 0 || shape.batch * pixels * shape.channels == 0) return invalid;
  if (k * bins == 0) {
    std::memset(grad_x, 0, shape.batch * pixels * shape.channels * storage_bytes(dtype));
    return -1;
  }
  RoiAlignJob job{};
  job.rois = rois.data();
  job.count = k;
  job.grid = grid;
  job.shape = shape;
  job.x = grad_y;
  job.y = grad_x;
  job.layout = layout;
  const RoiAlignKernels& kernel = box_kernels().roi_align[static_cast<int>(dtype)];
  const bool wide = dtype == DType::kFloat32 || dtype == DType::kFloat64;
  const int64_t threads = std::max(parallel.num_threads, 1);
  const double points = points_at_most(rois, grid, shape);

  if (layout == Layout::kNchw && few_points(points, rois, shape)) {
    job.scratch_bytes = wide ? 0 : pixels * sizeof(float);
    const auto scratch = std::make_unique_for_overwrite<std::byte[]>(threads * job.scratch_bytes);
    job.scratch = scratch.get();
    with_samples(rois, job, dtype, [&](const RoiAlignJob& with_table) {
      spread(parallel, shape.batch * shape.channels, static_cast<double>(pixels) * 0.3 + points * 4,
             [&](int64_t begin, int64_t end, int64_t slot) {
               kernel.backward_planes(with_table, begin, end, slot);
             });
    });
    return -1;
  }
  // Wide blocks, as each works out all positions again; but enough of them for all threads. Sums
  // over the boxes are in the boxes' order either way.
  const auto lanes = static_cast<int64_t>(box_kernels().vector_bytes / compute_bytes(dtype));
  constexpr int64_t kBlockChannels = 64;
  const auto blocks = [&] {
    return (shape.channels + job.block_channels - 1) / job.block_channels;
  };
  job.block_channels = round_up(std::min(shape.channels, kBlockChannels), lanes);
  while (job.block_channels > lanes && shape.batch * blocks() < threads) {
    job.block_channels = round_up(job.block_channels / 2, lanes);
  }
  const int64_t items = shape.batch * blocks();
  const bool direct = wide && layout == Layout::kNhwc;
  job.scratch_bytes = (bins + (direct ? 0 : pixels)) * job.block_channels * compute_bytes(dtype);
  const auto scratch =
      std::make_unique_for_overwrite<std::byte[]>(std::min(threads, items) * job.scratch_bytes);
  job.scratch = scratch.get();
  spread(parallel, items, static_cast<double>(pixels * job.block_channels) * 0.3,
         [&](int64_t begin, int64_t end, int64_t slot) { kernel.backward(job, begin, end, slot); });
  return -1;
}

}  // namespace rsvheat
