// SPDX-License-Identifier: Apache-2.0
#include "line_kernel.h"

namespace rsvheat::cuda {

Status run_short_lines(const LineParams& p, int quarter, cudaStream_t stream) {
  return launch_lines<ShortQuarters>(p, quarter, stream);
}

}  // namespace rsvheat::cuda
