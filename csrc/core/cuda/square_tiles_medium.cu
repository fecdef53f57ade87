// SPDX-License-Identifier: Apache-2.0
#include "square_tiles.h"

namespace rsvheat::cuda {

Status run_medium_square(const SquareParams& p, int size, cudaStream_t stream) {
  return launch_square<MediumSquares>(p, size, stream);
}

}  // namespace rsvheat::cuda
