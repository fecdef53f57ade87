// SPDX-License-Identifier: Apache-2.0
#include "core/cuda/plan_cache.h"

#include "core/plan_cache_registry.h"

#include "kernels.h"

namespace rsvheat::testing {
namespace {

using cuda::clear_fft_plans;
using cuda::fft_plan_count;
using cuda::pinned_fft_plan_count;

// Those that captures of other tests have left: they stay.
struct Pinned {
  size_t before = pinned_fft_plan_count();
  size_t others() const { return fft_plan_count() - before; }
  size_t alive() const { return emulation::device.fft_plans - before; }
};

Status run_dct(Shape shape) {
  size_t bytes = 0;
  const Status status =
      dct2d_cuda_workspace(shape, DType::kFloat32, Layout::kNchw, nullptr, &bytes);
  if (!status.ok()) return status;
  Workspace workspace(bytes);
  const Array x(DType::kFloat32, Values(count(shape), 1.0));
  Array y(DType::kFloat32, count(shape));
  return dct2d_cuda(x.data(), y.data(), DType::kFloat32, shape, Layout::kNchw, false,
                    workspace.data(), nullptr);
}

TEST(CudaPlanCache, ReusesPlansAndClearsThem) {
  clear_fft_plans();
  const Pinned pinned;
  EXPECT_EQ(pinned.alive(), 0u);
  expect_ok(run_dct({1, 6, 7, 2}));
  const size_t plans = pinned.others();
  EXPECT_EQ(plans, 2u);  // forward and inverse
  expect_ok(run_dct({2, 6, 7, 1}));
  EXPECT_EQ(pinned.others(), plans);
  expect_ok(run_dct({1, 7, 6, 2}));
  EXPECT_EQ(pinned.others(), 2 * plans);
  EXPECT_EQ(pinned.alive(), 2 * plans);
  clear_fft_plans();
  EXPECT_EQ(pinned.others(), 0u);
  EXPECT_EQ(pinned.alive(), 0u);
}

TEST(CudaPlanCache, IsKnownToTheCore) {
  const CudaPlanCache* registered = cuda_plan_cache();
  ASSERT_NE(registered, nullptr);
  expect_ok(run_dct({1, 6, 7, 2}));
  EXPECT_EQ(registered->size(), fft_plan_count());
  EXPECT_EQ(registered->capacity(), cuda::kPlanCacheCapacity);
  registered->clear();
  EXPECT_EQ(fft_plan_count(), pinned_fft_plan_count());
}

TEST(CudaPlanCache, IsBoundedAndDropsTheLeastRecentlyUsed) {
  clear_fft_plans();
  const Pinned pinned;
  for (int width = 2; width < 60; ++width) {
    expect_ok(run_dct({1, 2, width, 1}));
    expect_ok(run_dct({1, 3, 5, 1}));  // used all the time: stays
  }
  EXPECT_EQ(pinned.others(), cuda::kPlanCacheCapacity);
  EXPECT_EQ(pinned.alive(), cuda::kPlanCacheCapacity);
  emulation::device.capturing = true;
  expect_ok(run_dct({1, 3, 5, 1}));
  const Status dropped = run_dct({1, 2, 2, 1});
  emulation::device.capturing = false;
  EXPECT_FALSE(dropped.ok());
  clear_fft_plans();
}

TEST(CudaPlanCache, RefusesToMakeAPlanDuringACapture) {
  clear_fft_plans();
  emulation::device.capturing = true;
  const Status cold = run_dct({1, 4, 9, 1});
  emulation::device.capturing = false;
  EXPECT_FALSE(cold.ok());
  EXPECT_EQ(fft_plan_count(), pinned_fft_plan_count());
  EXPECT_NE(std::string(cold.detail).find("once before the capture"), std::string::npos);

  expect_ok(run_dct({1, 4, 9, 1}));
  emulation::device.capturing = true;
  const Status warm = run_dct({1, 4, 9, 1});
  emulation::device.capturing = false;
  expect_ok(warm);
}

TEST(CudaPlanCache, KeepsThePlansOfCapturedGraphs) {
  const Shape captured{1, 5, 11, 1};
  expect_ok(run_dct(captured));
  clear_fft_plans();
  expect_ok(run_dct(captured));
  const Pinned before;
  emulation::device.capturing = true;
  expect_ok(run_dct(captured));
  emulation::device.capturing = false;
  EXPECT_GT(pinned_fft_plan_count(), before.before);
  const size_t kept = pinned_fft_plan_count();
  clear_fft_plans();
  for (int width = 2; width < 60; ++width) expect_ok(run_dct({1, 2, width, 1}));
  EXPECT_EQ(emulation::device.fft_plans, kept + cuda::kPlanCacheCapacity);
  emulation::device.capturing = true;
  expect_ok(run_dct(captured));  // would fail if its plans had to be made
  emulation::device.capturing = false;
  clear_fft_plans();
  EXPECT_EQ(emulation::device.fft_plans, kept);
}

}  // namespace
}  // namespace rsvheat::testing
