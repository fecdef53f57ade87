// SPDX-License-Identifier: Apache-2.0
// The emulation itself: storage types, barriers, shared memory.
#include "core/cuda/platform.h"
#include "kernels.h"

namespace rsvheat::testing {
namespace {

TEST(CudaEmulation, RoundsStorageTypesAsTheCpuKernelsDo) {
  const Values values = [] {
    Values v = random_values(2000, DType::kFloat32, /*seed=*/60);
    for (size_t i = 0; i < v.size(); ++i) v[i] = float(v[i] * std::exp2(int(i % 48) - 30));
    for (double special : {0.0, -0.0, 65504.0, 65519.0, 65520.0, 1e6, 5.9604645e-8, 2.98e-8})
      v.push_back(special);
    return v;
  }();
  const Array half(DType::kFloat16, values), bfloat16(DType::kBFloat16, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(__half2float(__float2half_rn(float(values[i]))), half.values()[i]) << values[i];
    EXPECT_EQ(__bfloat162float(__float2bfloat16_rn(float(values[i]))), bfloat16.values()[i])
        << values[i];
  }
}

void reverse_kernel(const int* in, int* out) {
  RSVHEAT_DYNAMIC_SHARED(shared);
  int* values = reinterpret_cast<int*>(shared);
  const int first = blockIdx.x * blockDim.x;
  values[threadIdx.x] = in[first + threadIdx.x];
  __syncthreads();
  out[first + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

TEST(CudaEmulation, RunsBlocksWithSharedMemoryAndBarriers) {
  std::vector<int> in(96), out(96);
  for (int i = 0; i < 96; ++i) in[i] = i;
  expect_ok(cuda::launch(reverse_kernel, dim3(3), dim3(32), 32 * sizeof(int), nullptr, in.data(),
                         out.data()));
  for (int i = 0; i < 96; ++i) EXPECT_EQ(out[i], i / 32 * 32 + 31 - i % 32);
}

TEST(CudaEmulation, RefusesMoreSharedMemoryThanTheDeviceHas) {
  EXPECT_FALSE(cuda::launch(reverse_kernel, dim3(1), dim3(32), 1 << 20, nullptr,
                            (const int*)nullptr, (int*)nullptr)
                   .ok());
}

// Small launches of every kernel that has barriers; ThreadSanitizer also runs them with one barrier
// left out (CMakeLists.txt).
void launch_heat_conduction(Shape shape) {
  const Array k(DType::kFloat32, Values{0.5});
  const Array x(DType::kFloat32, random_values(count(shape), DType::kFloat32, /*seed=*/61));
  heat_conduction(x, {k.data(), 0, 0, 0}, Conduction::kDiffusivity, shape);
}

TEST(CudaBarriers, Tile) { launch_heat_conduction({1, 8, 8, 3}); }

TEST(CudaBarriers, SquareTile) { launch_heat_conduction({1, 28, 28, 4}); }

TEST(CudaBarriers, Matrix) { launch_heat_conduction({1, 5, 9, 2}); }

TEST(CudaBarriers, Lines) {
  const SharedMemoryLimit limit(33 << 10);
  launch_heat_conduction({1, 48, 56, 3});
}

TEST(CudaBarriers, Copy) { launch_heat_conduction({1, 2, 257, 3}); }

TEST(CudaBarriers, Sum) {
  const Shape shape{1, 6, 8, 1};
  const Array x(DType::kFloat32, random_values(count(shape), DType::kFloat32, /*seed=*/62));
  const Array y(DType::kFloat32, Values(count(shape), 0.0));
  Array spatial(DType::kFloat32, 1), spectral(DType::kFloat32, 1);
  call(
      [&](size_t* bytes) {
        return spectral_l1_cuda_workspace(shape, DType::kFloat32, nullptr, bytes);
      },
      [&](void* workspace) {
        return spectral_l1_cuda(x.data(), y.data(), spatial.data(), spectral.data(), nullptr,
                                DType::kFloat32, shape, workspace, nullptr);
      });
}

}  // namespace
}  // namespace rsvheat::testing
