// SPDX-License-Identifier: Apache-2.0
// The transform of images by cuFFT.
#include <algorithm>

#include "fft_pipeline.h"
#include "filter.h"

namespace rsvheat::cuda {
namespace {

template <typename Acc>
struct FilterOperation {
  static constexpr bool kSums = false;
  Filter<Acc> filter;
  unsigned channels;
  RSVHEAT_DEVICE Acc operator()(Acc value, unsigned plane, int n, int m) const {
    return filter.data ? value * filter.factor(*filter.at(n, m, plane % channels), n, m) : value;
  }
};

template <typename Acc>
Status run(const Transform& t, void* workspace, cudaStream_t stream) {
  const FftPipeline f(t.shape, t.layout, t.in_type, stream);
  const FilterOperation<Acc> operation{
      make_filter<Acc>(t.coefficients, t.kind, t.shape.height, t.shape.width),
      unsigned(t.shape.channels)};
  CopyParams copy{};
  copy.buffer = workspace;
  copy.view = f.view;
  for (int64_t begin = 0; begin < f.planes; begin += f.step) {
    const int64_t planes = std::min(f.step, f.planes - begin);
    copy.first_plane = begin;
    copy.planes = planes;
    copy.in = t.in;
    copy.out = nullptr;
    copy.type = t.in_type;
    copy.spectrum = !t.forward;
    RSVHEAT_RETURN_IF_ERROR((launch_copy<Acc, true>(copy, stream)));
    if (t.forward) RSVHEAT_RETURN_IF_ERROR(f.fft(workspace, planes, false));
    RSVHEAT_RETURN_IF_ERROR(
        launch_quads<Acc>(f, workspace, begin, planes, t.forward, t.inverse, operation));
    if (t.inverse) RSVHEAT_RETURN_IF_ERROR(f.fft(workspace, planes, true));
    copy.in = nullptr;
    copy.out = t.out;
    copy.type = t.out_type;
    copy.spectrum = !t.inverse;
    RSVHEAT_RETURN_IF_ERROR((launch_copy<Acc, false>(copy, stream)));
  }
  return {};
}

}  // namespace

Status fft_workspace(Shape shape, DType type, cudaStream_t stream, size_t* bytes) {
  return FftPipeline(shape, Layout::kNchw, type, stream).workspace(bytes);
}

Status run_fft(const Transform& t, void* workspace, cudaStream_t stream) {
  return is_double(t.in_type) ? run<double>(t, workspace, stream)
                              : run<float>(t, workspace, stream);
}

}  // namespace rsvheat::cuda
