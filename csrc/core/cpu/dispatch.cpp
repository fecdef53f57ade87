// SPDX-License-Identifier: Apache-2.0
// The public CPU entry points: tables and work space are prepared here, then the kernels of the
// chosen instruction set run.

#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <numbers>
#include <string>
#include <vector>

#include "../dct.h"
#include "../frequency_split.h"
#include "../heat_conduction.h"
#include "../layer_norm.h"
#include "../spatial_correction.h"
#include "../spectral_l1.h"
#include "jobs.h"
#include "plan.h"

namespace rsvheat {
namespace {

const Kernels* kernels_of(CpuCapability capability) {
  switch (capability) {
#if defined(RSVHEAT_X86_KERNELS)
    case CpuCapability::kAvx512:
      return &kKernelsAvx512;
    case CpuCapability::kAvx2:
      return &kKernelsAvx2;
#endif
    default:
      return &kKernelsGeneric;
  }
}

constexpr const char* kNames[] = {"generic", "avx2", "avx512"};

CpuCapability best_capability() {
  for (auto capability : {CpuCapability::kAvx512, CpuCapability::kAvx2}) {
    if (cpu_capability_available(capability)) return capability;
  }
  return CpuCapability::kGeneric;
}

struct Choice {
  std::atomic<CpuCapability> capability;
  std::string warning;

  Choice() : capability(best_capability()) {
    const char* requested = std::getenv("RSVHEAT_CPU_CAPABILITY");
    if (!requested || !*requested) return;
    CpuCapability wanted;
    if (!parse_cpu_capability(requested, &wanted)) {
      warning = std::string("RSVHEAT_CPU_CAPABILITY=") + requested +
                " is unknown; expected generic, avx2 or avx512";
    } else if (!cpu_capability_available(wanted)) {
      warning = std::string("RSVHEAT_CPU_CAPABILITY=") + requested +
                " is not available in this build or on this CPU";
    } else {
      capability = wanted;
    }
  }
};

Choice& choice() {
  static Choice instance;
  return instance;
}

const Kernels& kernels() { return *kernels_of(cpu_capability()); }

// Work space of finished calls, kept for the next one: fresh pages cost more than a transform of
// the tile that they hold. At most kMaxKept bytes a slot stay allocated.
class WorkspaceLease {
 public:
  WorkspaceLease(int slots, size_t slot_bytes) : slot_bytes_((slot_bytes + 4095) / 4096 * 4096) {
    const size_t bytes = slot_bytes_ * slots;
    {
      const std::lock_guard lock(mutex());
      auto& kept = kept_block();
      if (kept.bytes >= bytes) std::swap(block_, kept);
    }
    if (block_.bytes < bytes) {
      release(block_);
      block_.data = static_cast<std::byte*>(::operator new(bytes, kAlignment));
      block_.bytes = bytes;
    }
    slots_ = slots;
  }
  WorkspaceLease(const WorkspaceLease&) = delete;
  WorkspaceLease& operator=(const WorkspaceLease&) = delete;
  ~WorkspaceLease() {
    if (block_.bytes <= kMaxKept * slots_) {
      const std::lock_guard lock(mutex());
      if (kept_block().bytes < block_.bytes) std::swap(block_, kept_block());
    }
    release(block_);
  }

  Workspace workspace() const { return {block_.data, slot_bytes_, slots_}; }

 private:
  static constexpr size_t kMaxKept = size_t{16} << 20;
  static constexpr std::align_val_t kAlignment{4096};

  struct Block {
    std::byte* data = nullptr;
    size_t bytes = 0;
  };
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static Block& kept_block() {
    static Block block;
    return block;
  }
  static void release(Block& block) {
    if (block.data) ::operator delete(block.data, kAlignment);
    block = {};
  }

  Block block_;
  size_t slot_bytes_;
  int slots_ = 0;
};

// Of the type that arithmetic on `dtype` is done in.
size_t compute_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
}

int64_t padded_channels(Shape s, DType dtype) {
  return round_up(s.channels, static_cast<int64_t>(kernels().vector_bytes / compute_bytes(dtype)));
}

// An empty tensor's data may be a null pointer, which memset does not take.
void fill_zeros(void* data, size_t bytes) {
  if (bytes > 0) std::memset(data, 0, bytes);
}

bool is_empty(Shape s) { return s.batch * s.height * s.width * s.channels == 0; }

// No more threads than have 10 microseconds' work each: waking one costs that, and a whole slice of
// the scheduler where the core is busy.
ParallelFor worthwhile_threads(ParallelFor host, Shape s) {
  constexpr int64_t kElements = 16384;
  const int64_t threads = s.batch * s.height * s.width * s.channels / kElements;
  host.num_threads =
      static_cast<int>(std::clamp<int64_t>(threads, 1, std::max(host.num_threads, 1)));
  return host;
}

// How many registers of channels an NHWC item takes: wide groups touch memory in longer runs, but
// its tiles should stay in L2 and every thread should have work.
int64_t channel_group(Shape shape, int64_t lanes, int64_t vector_bytes, int tiles, int threads) {
  constexpr int64_t kL2Bytes = 1 << 20;
  constexpr int64_t kMaxGroup = 8;
  const int64_t registers = (shape.channels + lanes - 1) / lanes;
  const int64_t plane_bytes = shape.height * shape.width * vector_bytes;
  int64_t group = 1;
  while (2 * group <= kMaxGroup && group < registers &&
         2 * group * plane_bytes * tiles <= kL2Bytes &&
         (registers + 2 * group - 1) / (2 * group) * shape.batch >= threads) {
    group *= 2;
  }
  return group;
}

// Runs kernel(job) with the plans and, for each thread, `tiles` tiles and lines to work on.
template <class KernelJob, class Result>
Result run_kernel(Result (*const (&by_dtype)[4])(const KernelJob&), KernelJob& job, DType dtype,
                  Shape shape, Layout layout, int tiles, const ParallelFor& host) {
  const ParallelFor parallel = worthwhile_threads(host, shape);
  const size_t element = compute_bytes(dtype);
  const size_t vector_bytes = kernels().vector_bytes;
  job.shape = shape;
  const auto lanes = static_cast<int64_t>(vector_bytes / element);
  job.tile = layout == Layout::kNchw
                 ? make_nchw_tile(shape, lanes)
                 : make_nhwc_tile(shape, channel_group(shape, lanes, vector_bytes, tiles,
                                                       parallel.num_threads));
  job.parallel = &parallel;
  const int64_t registers = tiles * tile_registers(job.tile) + line_registers(job.tile);
  const WorkspaceLease lease(parallel.num_threads, registers * vector_bytes);
  job.workspace = lease.workspace();
  const auto run = [&](const auto& height_plan, const auto& width_plan) {
    job.height_plan = height_plan.get();
    job.width_plan = width_plan.get();
    return by_dtype[static_cast<int>(dtype)](job);
  };
  return dtype == DType::kFloat64
             ? run(get_plan<double>(shape.height), get_plan<double>(shape.width))
             : run(get_plan<float>(shape.height), get_plan<float>(shape.width));
}

}  // namespace

CpuCapability cpu_capability() { return choice().capability.load(std::memory_order_relaxed); }

bool cpu_capability_available(CpuCapability capability) {
#if defined(RSVHEAT_X86_KERNELS)
  switch (capability) {
    case CpuCapability::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case CpuCapability::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    default:
      return true;
  }
#else
  return capability == CpuCapability::kGeneric;
#endif
}

bool set_cpu_capability(CpuCapability capability) {
  if (!cpu_capability_available(capability)) return false;
  choice().capability = capability;
  return true;
}

const char* cpu_capability_name(CpuCapability capability) {
  return kNames[static_cast<int>(capability)];
}

bool parse_cpu_capability(const char* name, CpuCapability* capability) {
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kNames[i]) == 0) {
      *capability = static_cast<CpuCapability>(i);
      return true;
    }
  }
  return false;
}

const char* cpu_capability_warning() {
  return choice().warning.empty() ? nullptr : choice().warning.c_str();
}

void dct2d_cpu(const void* x, void* y, DType dtype, Shape shape, Layout layout, bool inverse,
               const ParallelFor& parallel) {
  if (is_empty(shape)) return;
  DctJob job{};
  job.x = x;
  job.y = y;
  job.inverse = inverse;
  const auto& by_dtype = layout == Layout::kNhwc ? kernels().dct2d_nhwc : kernels().dct2d_nchw;
  run_kernel(by_dtype, job, dtype, shape, layout, 1, parallel);
}

bool heat_conduction_cpu(const void* x, Coefficients coefficients, Conduction kind, void* y,
                         DType dtype, Shape shape, const ParallelFor& parallel) {
  if (is_empty(shape)) return true;
  HeatJob job{};
  job.x = x;
  job.coefficients = coefficients;
  job.kind = kind;
  job.y = y;
  constexpr int kTiles = 2;  // the filter has its own
  return run_kernel(kernels().heat_conduction, job, dtype, shape, Layout::kNhwc, kTiles, parallel);
}

void heat_conduction_backward_cpu(const void* grad_y, const void* x, Coefficients coefficients,
                                  Conduction kind, void* grad_x, void* grad_coefficients,
                                  DType dtype, Shape shape, const ParallelFor& parallel) {
  if (is_empty(shape)) {
    if (grad_coefficients) {
      fill_zeros(grad_coefficients,
                 shape.height * shape.width * shape.channels * compute_bytes(dtype));
    }
    return;
  }
  HeatBackwardJob job{};
  job.grad_y = grad_y;
  job.x = x;
  job.coefficients = coefficients;
  job.kind = kind;
  job.grad_x = grad_x;
  job.grad_coefficients = grad_coefficients;
  const int tiles = grad_coefficients ? 4 : 2;  // grad_y, the filter, x and the sums
  run_kernel(kernels().heat_conduction_backward, job, dtype, shape, Layout::kNhwc, tiles, parallel);
}

void sector_ranges(double radius, double angle_0, double angle_1, int64_t height, int64_t width,
                   ColumnRange* ranges) {
  constexpr double kTolerance = 1e-9;
  const double radius_sq =
      radius * radius * static_cast<double>(height * height + width * width) * (1 + kTolerance);
  const double to_radians = std::numbers::pi / 180;
  const double cos_0 = std::cos(angle_0 * to_radians), sin_0 = std::sin(angle_0 * to_radians);
  const double cos_1 = std::cos(angle_1 * to_radians), sin_1 = std::sin(angle_1 * to_radians);
  for (int64_t n = 0; n < height; ++n) {
    const auto keeps = [&](int64_t m) {
      const double y = static_cast<double>(n), x = static_cast<double>(m);
      const double slack = kTolerance * (y + x);
      return (n == 0 && m == 0) || (y * y + x * x <= radius_sq && y * cos_0 - x * sin_0 >= -slack &&
                                    y * cos_1 - x * sin_1 <= slack);
    };
    // A convex sector meets a row in one run; DC is a part of it or of its own.
    int64_t begin = 0;
    while (begin < width && !keeps(begin)) ++begin;
    int64_t end = begin;
    while (end < width && keeps(end)) ++end;
    ranges[n] = {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
  }
}

void frequency_split_cpu(const void* x, const double* radius, const double* angles, void* low,
                         void* high, DType dtype, Shape shape, const ParallelFor& parallel) {
  if (is_empty(shape)) return;
  std::vector<ColumnRange> ranges(shape.batch * shape.height);
  for (int64_t b = 0; b < shape.batch; ++b) {
    sector_ranges(radius[b], angles[2 * b], angles[2 * b + 1], shape.height, shape.width,
                  ranges.data() + b * shape.height);
  }
  SplitJob job{};
  job.x = x;
  job.ranges = ranges.data();
  job.low = low;
  job.high = high;
  run_kernel(kernels().frequency_split, job, dtype, shape, Layout::kNchw, 1, parallel);
}

void spectral_l1_cpu(const void* pred, const void* target, double* sums, void* grad, DType dtype,
                     Shape shape, const ParallelFor& parallel) {
  sums[0] = sums[1] = 0;
  if (is_empty(shape)) return;
  const size_t element = compute_bytes(dtype);
  const int64_t lanes = static_cast<int64_t>(kernels().vector_bytes / element);
  const int64_t row_groups = (shape.height + lanes - 1) / lanes;
  const int64_t column_groups = (shape.width + lanes - 1) / lanes;
  const int64_t planes = shape.batch * shape.channels;
  std::vector<double> partial_sums(planes * (row_groups + column_groups));
  SpectralL1Job job{};
  job.pred = pred;
  job.target = target;
  job.partial_sums = partial_sums.data();
  job.grad = grad;
  run_kernel(kernels().spectral_l1, job, dtype, shape, Layout::kNchw, 1, parallel);
  const double* next = partial_sums.data();
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t i = 0; i < row_groups; ++i) sums[0] += *next++;
    for (int64_t i = 0; i < column_groups; ++i) sums[1] += *next++;
  }
}

void layer_norm_cpu(NormStep step, const void* x, const void* other, NormParameters norm, void* y,
                    DType dtype, int64_t rows, int64_t channels, const ParallelFor& host) {
  if (rows * channels == 0) return;
  const ParallelFor parallel = worthwhile_threads(host, {rows, 1, 1, channels});
  NormJob job{step, x, other, norm, y, rows, channels, &parallel};
  kernels().layer_norm[static_cast<int>(dtype)](job);
}

void layer_norm_backward_cpu(NormStep step, const void* grad_y, const void* x, const void* other,
                             NormParameters norm, void* grad_x, void* grad_other, void* grad_weight,
                             void* grad_bias, DType dtype, int64_t rows, int64_t channels,
                             const ParallelFor& host) {
  if (rows * channels == 0) {
    fill_zeros(grad_weight, channels * compute_bytes(dtype));
    fill_zeros(grad_bias, channels * compute_bytes(dtype));
    return;
  }
  constexpr int64_t kMaxBlocks = 64;
  const int64_t blocks = std::min(rows, kMaxBlocks);
  const ParallelFor parallel = worthwhile_threads(host, {rows, 1, 1, channels});
  const WorkspaceLease lease(1, blocks * 3 * channels * compute_bytes(dtype));
  NormBackwardJob job{step,
                      grad_y,
                      x,
                      other,
                      norm,
                      grad_x,
                      grad_other,
                      grad_weight,
                      grad_bias,
                      rows,
                      channels,
                      blocks,
                      lease.workspace().data,
                      &parallel};
  kernels().layer_norm_backward[static_cast<int>(dtype)](job);
}

void spatial_correction_conv_cpu(const void* x, CorrectionParameters parameters, void* y,
                                 DType dtype, Shape shape, const ParallelFor& host) {
  if (is_empty(shape)) return;
  const ParallelFor parallel = worthwhile_threads(host, shape);
  const int64_t elements = correction_elements(shape.width, padded_channels(shape, dtype));
  const WorkspaceLease lease(parallel.num_threads, elements * compute_bytes(dtype));
  const CorrectionJob job{shape, x, parameters, y, lease.workspace(), &parallel};
  kernels().spatial_correction_conv[static_cast<int>(dtype)](job);
}

void spatial_correction_conv_backward_cpu(const void* grad_y, const void* x,
                                          CorrectionParameters parameters,
                                          CorrectionGradients gradients, DType dtype, Shape shape,
                                          const ParallelFor& host) {
  const size_t element = compute_bytes(dtype);
  if (is_empty(shape)) {
    fill_zeros(gradients.embed, shape.height * shape.width * shape.channels * element);
    for (void* sums : {gradients.norm_weight, gradients.norm_bias, gradients.conv_bias}) {
      fill_zeros(sums, shape.channels * element);
    }
    fill_zeros(gradients.conv_weight, 9 * shape.channels * element);
    return;
  }
  // Each block computes a row above and below itself once more.
  constexpr int64_t kBlockRows = 8, kMinBlocks = 4;
  const int64_t blocks = std::min(shape.height, std::max(kMinBlocks, shape.height / kBlockRows));
  const ParallelFor parallel = worthwhile_threads(host, shape);
  const int64_t pixel = padded_channels(shape, dtype);
  const WorkspaceLease lease(parallel.num_threads,
                             correction_backward_elements(shape.width, pixel) * element);
  std::vector<double> partial_sums(blocks * 12 * pixel * element / sizeof(double));
  CorrectionBackwardJob job{};
  job.shape = shape;
  job.x = x;
  job.parameters = parameters;
  job.workspace = lease.workspace();
  job.parallel = &parallel;
  job.grad_y = grad_y;
  job.gradients = gradients;
  job.blocks = blocks;
  job.partial_sums = partial_sums.data();
  kernels().spatial_correction_conv_backward[static_cast<int>(dtype)](job);
}

}  // namespace rsvheat
