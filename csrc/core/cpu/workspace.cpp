// SPDX-License-Identifier: Apache-2.0
#include "workspace.h"

#include <mutex>
#include <new>
#include <utility>

namespace rsvheat {
namespace {

constexpr size_t kPage = 4096;
constexpr std::align_val_t kAlignment{kPage};
constexpr size_t kMaxKept = size_t{16} << 20;  // a slot

std::mutex& kept_mutex() {
  static std::mutex instance;
  return instance;
}

WorkspaceBlock& kept_block() {
  static WorkspaceBlock block;
  return block;
}

void release(WorkspaceBlock& block) {
  if (block.data) ::operator delete(block.data, kAlignment);
  block = {};
}

}  // namespace

WorkspaceLease::WorkspaceLease(int slots, size_t slot_bytes, size_t shared_bytes)
    : slot_bytes_((slot_bytes + kPage - 1) / kPage * kPage), slots_(slots) {
  const size_t bytes = slot_bytes_ * slots + shared_bytes;
  {
    const std::lock_guard lock(kept_mutex());
    if (kept_block().bytes >= bytes) std::swap(block_, kept_block());
  }
  if (block_.bytes < bytes) {
    release(block_);
    block_.data = static_cast<std::byte*>(::operator new(bytes, kAlignment));
    block_.bytes = bytes;
  }
}

WorkspaceLease::~WorkspaceLease() {
  if (block_.bytes <= kMaxKept * slots_) {
    const std::lock_guard lock(kept_mutex());
    if (kept_block().bytes < block_.bytes) std::swap(block_, kept_block());
  }
  release(block_);
}

}  // namespace rsvheat
