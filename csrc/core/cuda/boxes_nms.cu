// SPDX-License-Identifier: Apache-2.0
// The boxes come in blocks in the order of their scores: a block's members are compared with the
// boxes that stay, the others with each other, and one thread block decides one by one. No step
// waits for the host, and what is kept of pairs is a block's matrix of bits.
#include <algorithm>

#include "boxes.h"
#include "boxes_device.h"

namespace rsvheat {
namespace cuda {
namespace {

struct Nms {
  BoxTable table;         // in the order of the scores
  const int64_t* labels;  // as the boxes were given; null: none
  const int64_t* order;
  double threshold;
  int32_t* kept;  // boxes that stay
  int64_t* kept_count;
  bool* suppressed;    // of each block member
  uint64_t* overlaps;  // (kBlock, kWords): later members that each suppresses
  bool* keep;          // the result
  int64_t first;       // of the block
  int count;
};

// Whether box i, earlier, suppresses box j.
template <typename T>
RSVHEAT_DEVICE bool suppresses(const Nms& nms, int64_t i, int64_t j) {
  if (nms.labels && nms.labels[nms.order[i]] != nms.labels[nms.order[j]]) return false;
  if (nms.table.apart(i, nms.table, j)) return false;
  return double(T(intersection_over_union(nms.table.box(i), nms.table.box(j)))) > nms.threshold;
}

// A thread block for each member.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) against_kept_kernel(Nms nms) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  int* found = reinterpret_cast<int*>(shared);
  const int64_t member = nms.first + blockIdx.x, count = *nms.kept_count;
  bool any = false;
  for (int64_t k = threadIdx.x; k < count && !any; k += blockDim.x) {
    any = suppresses<T>(nms, nms.kept[k], member);
  }
  found[threadIdx.x] = any;
  for (int width = kMaxThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < width) found[threadIdx.x] |= found[threadIdx.x + width];
  }
  if (threadIdx.x == 0) nms.suppressed[blockIdx.x] = found[0] != 0;
}

// A thread block for each member, a thread for each word of 64 others.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) within_block_kernel(Nms nms, int words) {
  const int i = int(blockIdx.x), word = int(threadIdx.x);
  uint64_t bits = 0;
  if (!nms.suppressed[i]) {
    for (int bit = 0; bit < 64; ++bit) {
      const int j = 64 * word + bit;
      if (j <= i || j >= nms.count || nms.suppressed[j]) continue;
      if (suppresses<T>(nms, nms.first + i, nms.first + j)) bits |= uint64_t(1) << bit;
    }
  }
  nms.overlaps[int64_t(i) * words + word] = bits;
}

// One thread block, a thread for each word.
__global__ void __launch_bounds__(kMaxThreads) decide_kernel(Nms nms, int words) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  uint64_t* removed = reinterpret_cast<uint64_t*>(shared);
  removed[threadIdx.x] = 0;
  __syncthreads();
  int64_t kept = *nms.kept_count;
  for (int i = 0; i < nms.count; ++i) {
    const bool stays = !nms.suppressed[i] && !(removed[i / 64] >> (i % 64) & 1);
    if (stays) {  // the same for all threads
      __syncthreads();
      removed[threadIdx.x] |= nms.overlaps[int64_t(i) * words + threadIdx.x];
      if (threadIdx.x == 0) nms.kept[kept] = int32_t(nms.first + i);
      ++kept;
      __syncthreads();
    }
    if (threadIdx.x == 0) nms.keep[nms.first + i] = stays;
  }
  if (threadIdx.x == 0) *nms.kept_count = kept;
}

constexpr int kWords = kMaxThreads / 8;
constexpr int64_t kBlock = 64 * kWords;

template <typename T>
Status run_block(const Nms& nms, cudaStream_t stream) {
  const int words = (nms.count + 63) / 64;
  RSVHEAT_RETURN_IF_ERROR(launch(against_kept_kernel<T>, dim3(unsigned(nms.count)),
                                 dim3(kMaxThreads), kMaxThreads * sizeof(int), stream, nms));
  RSVHEAT_RETURN_IF_ERROR(launch(within_block_kernel<T>, dim3(unsigned(nms.count)),
                                 dim3(unsigned(words)), 0, stream, nms, words));
  return launch(decide_kernel, dim3(1), dim3(unsigned(words)), words * sizeof(uint64_t), stream,
                nms, words);
}

// The workspace in this order; every part is a multiple of 8 bytes.
struct Layout {
  size_t table, overlaps, count, kept, suppressed, total;
  explicit Layout(int64_t n) {
    table = 0;
    overlaps = table + table_bytes(n);
    count = overlaps + kBlock * kWords * sizeof(uint64_t);
    kept = count + sizeof(int64_t);
    suppressed = kept + (n + 1) / 2 * 2 * sizeof(int32_t);
    total = suppressed + kBlock;
  }
};

}  // namespace
}  // namespace cuda

using namespace cuda;

size_t nms_rotated_cuda_workspace(int64_t n) { return cuda::Layout(n).total; }

Status nms_rotated_cuda(const void* boxes, const int64_t* order, const int64_t* labels, int64_t n,
                        double threshold, bool* keep, DType dtype, void* workspace,
                        cudaStream_t stream) {
  if (n == 0) return {};
  const cuda::Layout layout(n);
  auto* bytes = static_cast<unsigned char*>(workspace);
  Nms nms{};
  nms.table = {reinterpret_cast<double*>(bytes + layout.table), n};
  nms.labels = labels;
  nms.order = order;
  nms.threshold = threshold;
  nms.overlaps = reinterpret_cast<uint64_t*>(bytes + layout.overlaps);
  nms.kept_count = reinterpret_cast<int64_t*>(bytes + layout.count);
  nms.kept = reinterpret_cast<int32_t*>(bytes + layout.kept);
  nms.suppressed = reinterpret_cast<bool*>(bytes + layout.suppressed);
  nms.keep = keep;
  RSVHEAT_RETURN_IF_ERROR(prepare_boxes(boxes, order, n, dtype, nms.table, stream));
  RSVHEAT_RETURN_IF_ERROR(
      check(cudaMemsetAsync(nms.kept_count, 0, sizeof(int64_t), stream), "clearing the count"));
  for (nms.first = 0; nms.first < n; nms.first += kBlock) {
    nms.count = int(std::min(kBlock, n - nms.first));
    RSVHEAT_RETURN_IF_ERROR(
        (dtype == DType::kFloat64 ? run_block<double> : run_block<float>)(nms, stream));
  }
  return {};
}

}  // namespace rsvheat
