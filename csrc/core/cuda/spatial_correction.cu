// SPDX-License-Identifier: Apache-2.0
#include "spatial_correction.h"

#include "correction_device.h"

namespace rsvheat {

using namespace cuda;

size_t spatial_correction_conv_cuda_workspace(DType dtype, Shape shape) {
  return numel(shape) == 0 ? 0 : moments_bytes(dtype, shape) + taps_bytes(dtype, shape);
}

Status spatial_correction_conv_cuda(const void* x, CorrectionParameters parameters, void* y,
                                    DType dtype, Shape shape, void* workspace,
                                    cudaStream_t stream) {
  if (numel(shape) == 0) return {};
  return with_storage(dtype, [&](auto storage) {
    using S = decltype(storage);
    CorrectionParams p = correction_params(x, parameters, shape);
    p.y = y;
    const bool vectors =
        takes_vectors<S>(shape.channels, {x, p.embed, p.weight, p.bias, parameters.conv_bias, y});
    RSVHEAT_RETURN_IF_ERROR(
        prepare_correction<S>(&p, parameters.conv_weight, dtype, vectors, workspace, stream));
    const auto run = [&](auto width) {
      constexpr int V = decltype(width)::value;
      set_strips(&p, V);
      const ConvGrid g(shape.channels, V, p.strips(), INT32_MAX);
      return launch(convolution_kernel<NormedFeatures<S, V>, S, V, false>, g.grid, g.block, 0,
                    stream, p);
    };
    return vectors ? run(std::integral_constant<int, kVector<S>>{})
                   : run(std::integral_constant<int, 1>{});
  });
}

}  // namespace rsvheat
