// SPDX-License-Identifier: Apache-2.0
// Work space of CPU kernels, kept between calls.
#pragma once

#include <cstddef>

#include "jobs.h"

namespace rsvheat {

// Memory from operator new, aligned to a page; its destructor returns it.
struct WorkspaceBlock {
  std::byte* data = nullptr;
  size_t bytes = 0;
};

// Work space of one call. Memory of finished calls is kept for the next one: fresh pages cost more
// than a transform of the tile that they hold. At most 16 MiB a slot stay allocated. The
// constructor throws std::bad_alloc.
class WorkspaceLease {
 public:
  WorkspaceLease(int slots, size_t slot_bytes, size_t shared_bytes = 0);
  WorkspaceLease(const WorkspaceLease&) = delete;
  WorkspaceLease& operator=(const WorkspaceLease&) = delete;
  ~WorkspaceLease();

  Workspace workspace() const {
    return {block_.data, slot_bytes_, slots_, block_.data + slot_bytes_ * slots_};
  }

 private:
  WorkspaceBlock block_;
  size_t slot_bytes_;
  int slots_;
};

}  // namespace rsvheat
