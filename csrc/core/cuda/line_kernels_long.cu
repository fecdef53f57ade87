// SPDX-License-Identifier: Apache-2.0
#include "line_kernel.h"

namespace rsvheat::cuda {

Status run_long_lines(const LineParams& p, int64_t size, cudaStream_t stream) {
  return launch_lines<LongHalves>(p, size, stream);
}

}  // namespace rsvheat::cuda
