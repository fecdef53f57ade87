// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <cmath>
#include <list>
#include <mutex>
#include <numbers>

#include "plan_cache.h"

namespace rsvheat {
namespace {

// Dense tables of large odd lengths dominate: 33 MB for 4095 in float32. The least recently used
// plans go first once the total passes this bound.
constexpr size_t kMaxCacheBytes = size_t{96} << 20;

double cos_pi(int64_t numerator, int64_t denominator) {
  return std::cos(std::numbers::pi * static_cast<double>(numerator % (2 * denominator)) /
                  static_cast<double>(denominator));
}

template <class T>
class PlanCache {
 public:
  static PlanCache& instance() {
    static PlanCache cache;
    return cache;
  }

  std::shared_ptr<const Plan<T>> get(int n) {
    const std::lock_guard lock(mutex_);
    return find_or_make(n);
  }

  void add_info(PlanCacheInfo* info) {
    const std::lock_guard lock(mutex_);
    info->plans += plans_.size();
    info->bytes += bytes_;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    plans_.clear();
    bytes_ = 0;
  }

 private:
  using Entry = std::shared_ptr<const Plan<T>>;

  Entry find_or_make(int n) {
    for (auto entry = plans_.begin(); entry != plans_.end(); ++entry) {
      if ((*entry)->n == n) {
        plans_.splice(plans_.begin(), plans_, entry);
        return plans_.front();
      }
    }
    Entry plan = make(n);
    plans_.push_front(plan);
    bytes_ += plan->bytes;
    while (bytes_ > kMaxCacheBytes && plans_.size() > 1) {
      bytes_ -= plans_.back()->bytes;
      plans_.pop_back();
    }
    return plan;
  }

  Entry make(int n) {
    auto plan = std::make_shared<Plan<T>>();
    const int64_t h = n / 2;
    const bool recursive = n > kMaxCodelet, odd = n % 2 == 1;
    const int64_t tables = 3 * int64_t{n};
    const int64_t transform = !recursive ? 0 : odd ? (h + 1) * (h + 1) + h * h : 4 * h;
    plan->n = n;
    plan->values = std::make_unique<T[]>(tables + transform);
    plan->bytes = sizeof(*plan) + (tables + transform) * sizeof(T);
    T* next = plan->values.get();
    plan->omega_sq = next;
    for (int i = 0; i < n; ++i) {
      const double omega = std::numbers::pi * i / n;
      *next++ = static_cast<T>(omega * omega);
    }
    plan->scale = next;
    for (int i = 0; i < n; ++i) *next++ = static_cast<T>(std::sqrt((i == 0 ? 1.0 : 2.0) / n));
    plan->scale_sq = next;
    for (int i = 0; i < n; ++i) *next++ = static_cast<T>((i == 0 ? 1.0 : 2.0) / n);
    if (!recursive) return plan;
    if (odd) {
      plan->even_rows = next;
      for (int64_t j = 0; j <= h; ++j) {
        for (int64_t i = 0; i <= h; ++i) {
          *next++ = static_cast<T>(cos_pi((2 * i + 1) * (2 * j), 2 * n));
        }
      }
      plan->odd_rows = next;
      for (int64_t j = 0; j < h; ++j) {
        for (int64_t i = 0; i < h; ++i) {
          *next++ = static_cast<T>(cos_pi((2 * i + 1) * (2 * j + 1), 2 * n));
        }
      }
      plan->entries = std::make_unique<OddDct4Entry[]>(n);
      plan->bytes += n * sizeof(OddDct4Entry);
      make_odd_dct4(n, plan->entries.get());
      plan->odd_dct4 = plan->entries.get();
      return plan;
    }
    plan->half_owner = find_or_make(static_cast<int>(h));
    plan->half = plan->half_owner.get();
    plan->rotations = next;
    for (int64_t i = 0; i < h; ++i) {
      const double c = cos_pi(2 * i + 1, 4 * n), s = cos_pi(2 * n - (2 * i + 1), 4 * n);
      const double sign = i % 2 == 0 ? 1 : -1;
      for (double value : {c, s, sign * c, -sign * s}) *next++ = static_cast<T>(value);
    }
    return plan;
  }

  std::mutex mutex_;
  std::list<Entry> plans_;  // most recently used first
  size_t bytes_ = 0;
};

}  // namespace

template <class T>
std::shared_ptr<const Plan<T>> get_plan(int64_t n) {
  return PlanCache<T>::instance().get(static_cast<int>(n));
}

template std::shared_ptr<const Plan<float>> get_plan(int64_t);
template std::shared_ptr<const Plan<double>> get_plan(int64_t);

PlanCacheInfo cpu_plan_cache_info() {
  PlanCacheInfo info{0, 0};
  PlanCache<float>::instance().add_info(&info);
  PlanCache<double>::instance().add_info(&info);
  return info;
}

void clear_cpu_plan_cache() {
  PlanCache<float>::instance().clear();
  PlanCache<double>::instance().clear();
}

}  // namespace rsvheat
