// SPDX-License-Identifier: Apache-2.0
// Compares every CUDA operator with its CPU kernel on small operands, without torch and GoogleTest:
// quick enough for compute-sanitizer and Nsight Compute (tools/gpu_check.sh). Device buffers have
// exactly the operands' sizes and hold NaNs at first. Under RSVHEAT_CUDA_EMULATION they are host
// memory, so that this program itself is tested without a GPU.
//
//   device_check [PREFIX]    runs the checks whose names begin with PREFIX; exit status 1 if any
//                            result differs
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "core/boxes.h"
#include "core/cuda/boxes.h"
#include "core/cuda/dct.h"
#include "core/cuda/frequency_split.h"
#include "core/cuda/heat_conduction.h"
#include "core/cuda/layer_norm.h"
#include "core/cuda/spatial_correction.h"
#include "core/cuda/spectral_l1.h"
#include "core/dct.h"
#include "core/frequency_split.h"
#include "core/heat_conduction.h"
#include "core/layer_norm.h"
#include "core/spatial_correction.h"
#include "core/spectral_l1.h"

#if defined(RSVHEAT_CUDA_EMULATION)
#include "emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace {

using namespace rsvheat;
using Bytes = std::vector<unsigned char>;
using Values = std::vector<double>;

[[noreturn]] void fail(const char* what, const char* detail) {
  std::fprintf(stderr, "%s: %s\n", what, detail ? detail : "");
  std::exit(2);
}

#if defined(RSVHEAT_CUDA_EMULATION)

constexpr std::align_val_t kAlignment{256};
void* allocate(size_t bytes) { return operator new(bytes, kAlignment); }
void release(void* data) { operator delete(data, kAlignment); }
void fill(void* to, size_t bytes) { std::memset(to, 0xff, bytes); }
void upload(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void download(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

#else

void expect(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(what, cudaGetErrorString(error));
}
void* allocate(size_t bytes) {
  void* data = nullptr;
  expect(cudaMalloc(&data, bytes), "cudaMalloc");
  return data;
}
void release(void* data) { expect(cudaFree(data), "cudaFree"); }
void fill(void* to, size_t bytes) { expect(cudaMemset(to, 0xff, bytes), "cudaMemset"); }
void upload(void* to, const void* from, size_t bytes) {
  expect(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}
void download(void* to, const void* from, size_t bytes) {
  expect(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

#endif

// Device memory, full of NaNs or with a copy of `bytes`.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes), data_(allocate(std::max<size_t>(bytes, 1))) {
    fill(data_, bytes);
  }
  explicit Buffer(const Bytes& bytes) : Buffer(bytes.size()) {
    upload(data_, bytes.data(), bytes.size());
  }
  ~Buffer() { release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() { return data_; }
  Bytes bytes() const {
    Bytes copy(bytes_);
    download(copy.data(), data_, bytes_);
    return copy;
  }

 private:
  size_t bytes_;
  void* data_;
};

size_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Values as dtype: float32, float64 or bfloat16.
Bytes pack(DType dtype, const Values& values) {
  Bytes bytes(values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    unsigned char* to = bytes.data() + i * size_of(dtype);
    const auto single = static_cast<float>(values[i]);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    if (dtype == DType::kFloat64) {
      std::memcpy(to, &values[i], 8);
    } else if (dtype == DType::kFloat32) {
      std::memcpy(to, &single, 4);
    } else {
      const auto upper = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
      std::memcpy(to, &upper, 2);
    }
  }
  return bytes;
}

Values unpack(DType dtype, const Bytes& bytes) {
  Values values(bytes.size() / size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const unsigned char* from = bytes.data() + i * size_of(dtype);
    if (dtype == DType::kFloat64) {
      std::memcpy(&values[i], from, 8);
      continue;
    }
    uint32_t bits = 0;
    if (dtype == DType::kFloat32) {
      std::memcpy(&bits, from, 4);
    } else {
      uint16_t upper;
      std::memcpy(&upper, from, 2);
      bits = static_cast<uint32_t>(upper) << 16;
    }
    float single;
    std::memcpy(&single, &bits, sizeof single);
    values[i] = single;
  }
  return values;
}

template <class T>
Bytes bytes_of(const std::vector<T>& values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Values random(int64_t count, double low, double high, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> distribution(low, high);
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = distribution(engine);
  return values;
}

Values random_boxes(int64_t count, bool with_image, uint32_t seed) {
  Values boxes;
  for (int64_t i = 0; i < count; ++i) {
    const Values v = random(5, 0, 1, seed + static_cast<uint32_t>(i));
    if (with_image) boxes.push_back(static_cast<double>(i % 2));
    boxes.insert(boxes.end(),
                 {60 * v[0], 60 * v[1], 5 + 30 * v[2], 5 + 30 * v[3], 720 * v[4] - 360});
  }
  return boxes;
}

int64_t count(Shape s) { return s.batch * s.height * s.width * s.channels; }

DType parameter_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

const char* name_of(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kFloat64 ? "float64" : "bfloat16";
}

std::string describe(Shape s) {
  return std::to_string(s.batch) + "x" + std::to_string(s.height) + "x" + std::to_string(s.width) +
         "x" + std::to_string(s.channels);
}

int wrong = 0, compared = 0;

// The relative L2 error, infinite if a value is NaN in one of the two only.
double error_of(const Values& found, const Values& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(found[i])) continue;
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double error = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  return std::isnan(error) ? HUGE_VAL : error;
}

void compare(const std::string& what, DType dtype, const Bytes& found, const Bytes& expected) {
  const double limit = dtype == DType::kFloat64 ? 1e-12 : dtype == DType::kFloat32 ? 4e-6 : 8e-3;
  const double error = error_of(unpack(dtype, found), unpack(dtype, expected));
  ++compared;
  if (error <= limit) return;
  ++wrong;
  std::printf("WRONG %s %s: relative error %.3g, at most %.3g expected\n", what.c_str(),
              name_of(dtype), error, limit);
}

void compare_bits(const std::string& what, const Bytes& found, const Bytes& expected) {
  ++compared;
  if (found == expected) return;
  ++wrong;
  std::printf("WRONG %s: other bits than the CPU's\n", what.c_str());
}

// Runs `call(workspace)` with a workspace of `bytes`.
void run(size_t bytes, const std::function<Status(void*)>& call) {
  Buffer workspace(bytes);
  const Status status = call(workspace.data());
  if (!status.ok()) fail(status.what, status.detail);
}

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16};

// Some for each path of transform.h: square tiles, register tiles, matrix tiles, passes with
// register lines on both axes, with 16-byte accesses and without, and on none, cuFFT.
constexpr Shape kFeatures[] = {{2, 7, 7, 64},    {2, 14, 14, 40},  {3, 28, 28, 24},
                               {3, 56, 56, 16},  {2, 64, 64, 16},  {1, 56, 56, 3},
                               {2, 13, 17, 9},   {1, 96, 128, 32}, {1, 128, 100, 2},
                               {1, 131, 127, 1}, {1, 300, 40, 2},  {2, 1, 5, 3}};
constexpr Shape kImages[] = {{2, 64, 96, 2}, {1, 31, 1, 2}, {1, 37, 53, 1}, {1, 300, 7, 1}};

void check_heat() {
  for (Shape shape : kFeatures) {
#if defined(RSVHEAT_CUDA_EMULATION)
    // The emulation starts a host thread for each thread of a block: the largest take minutes.
    shape.channels = std::min<int64_t>(shape.channels, 8);
    if (count(shape) > 10000) continue;
#endif
    for (const DType dtype : kDTypes) {
      const int64_t points = shape.height * shape.width * shape.channels;
      const Bytes x = pack(dtype, random(count(shape), -1, 1, 1));
      const Bytes grad = pack(dtype, random(count(shape), -1, 1, 2));
      const DType parameter = parameter_dtype(dtype);
      const Bytes k = pack(parameter, random(points, 0, 2, 3));
      Buffer x_device(x), grad_device(grad), k_device(k), y(x.size()), grad_x(x.size()),
          grad_k(k.size());
      const auto view = [&](const void* data) {
        return Coefficients{data, shape.width * shape.channels, shape.channels, 1};
      };
      for (const Conduction kind : {Conduction::kDiffusivity, Conduction::kFilter}) {
        size_t bytes = 0;
        const Status query = heat_conduction_cuda_workspace(shape, dtype, nullptr, &bytes);
        if (!query.ok()) fail(query.what, query.detail);
        run(bytes, [&](void* workspace) {
          return heat_conduction_cuda(x_device.data(), view(k_device.data()), kind, y.data(), dtype,
                                      shape, workspace, nullptr);
        });
        Bytes expected(x.size());
        heat_conduction_cpu(x.data(), view(k.data()), kind, expected.data(), dtype, shape, kSerial);
        compare("heat_conduction " + describe(shape), dtype, y.bytes(), expected);

        const bool vectors = heat_conduction_vectors(grad_device.data(), x_device.data(),
                                                     view(k_device.data()), grad_x.data());
        const Status backward_query =
            heat_conduction_backward_cuda_workspace(shape, dtype, true, vectors, nullptr, &bytes);
        if (!backward_query.ok()) fail(backward_query.what, backward_query.detail);
        run(bytes, [&](void* workspace) {
          return heat_conduction_backward_cuda(grad_device.data(), x_device.data(),
                                               view(k_device.data()), kind, grad_x.data(),
                                               grad_k.data(), dtype, shape, workspace, nullptr);
        });
        Bytes expected_x(x.size()), expected_k(k.size());
        heat_conduction_backward_cpu(grad.data(), x.data(), view(k.data()), kind, expected_x.data(),
                                     expected_k.data(), dtype, shape, kSerial);
        compare("heat_conduction's gradient of x " + describe(shape), dtype, grad_x.bytes(),
                expected_x);
        compare("heat_conduction's gradient of k " + describe(shape), parameter, grad_k.bytes(),
                expected_k);
      }
    }
  }
}

void check_dct() {
  for (const Layout layout : {Layout::kNhwc, Layout::kNchw}) {
    for (const Shape shape : kImages) {
      for (const DType dtype : kDTypes) {
        const Bytes x = pack(dtype, random(count(shape), -1, 1, 4));
        Buffer x_device(x), y(x.size());
        for (const bool inverse : {false, true}) {
          size_t bytes = 0;
          const Status query = dct2d_cuda_workspace(shape, dtype, layout, nullptr, &bytes);
          if (!query.ok()) fail(query.what, query.detail);
          run(bytes, [&](void* workspace) {
            return dct2d_cuda(x_device.data(), y.data(), dtype, shape, layout, inverse, workspace,
                              nullptr);
          });
          Bytes expected(x.size());
          dct2d_cpu(x.data(), expected.data(), dtype, shape, layout, inverse, kSerial);
          compare((inverse ? "idct2d " : "dct2d ") + describe(shape), dtype, y.bytes(), expected);
        }
      }
    }
  }
}

void check_split() {
  for (const Shape shape : kImages) {
    const std::vector<double> radius(static_cast<size_t>(shape.batch), 0.3);
    std::vector<double> angles;
    for (int64_t i = 0; i < shape.batch; ++i) angles.insert(angles.end(), {10.0, 60.0});
    Buffer radius_device(bytes_of(radius)), angles_device(bytes_of(angles));
    for (const DType dtype : kDTypes) {
      const Bytes x = pack(dtype, random(count(shape), -1, 1, 5));
      Buffer x_device(x), low(x.size()), high(x.size());
      size_t bytes = 0;
      const Status query = frequency_split_cuda_workspace(shape, dtype, nullptr, &bytes);
      if (!query.ok()) fail(query.what, query.detail);
      run(bytes, [&](void* workspace) {
        return frequency_split_cuda(x_device.data(),
                                    static_cast<const double*>(radius_device.data()),
                                    static_cast<const double*>(angles_device.data()), low.data(),
                                    high.data(), dtype, shape, workspace, nullptr);
      });
      Bytes expected_low(x.size()), expected_high(x.size());
      frequency_split_cpu(x.data(), radius.data(), angles.data(), expected_low.data(),
                          expected_high.data(), dtype, shape, kSerial);
      compare("frequency_split, low " + describe(shape), dtype, low.bytes(), expected_low);
      compare("frequency_split, high " + describe(shape), dtype, high.bytes(), expected_high);
    }
  }
}

void check_loss() {
  for (const Shape shape : kImages) {
    for (const DType dtype : kDTypes) {
      const Bytes pred = pack(dtype, random(count(shape), -1, 1, 6));
      const Bytes target = pack(dtype, random(count(shape), -1, 1, 7));
      const DType sum = parameter_dtype(dtype);
      Buffer pred_device(pred), target_device(target), spatial(size_of(sum)),
          spectral(size_of(sum)), grad(pred.size());
      size_t bytes = 0;
      const Status query = spectral_l1_cuda_workspace(shape, dtype, nullptr, &bytes);
      if (!query.ok()) fail(query.what, query.detail);
      run(bytes, [&](void* workspace) {
        return spectral_l1_cuda(pred_device.data(), target_device.data(), spatial.data(),
                                spectral.data(), grad.data(), dtype, shape, workspace, nullptr);
      });
      double sums[2] = {0, 0};
      Bytes expected_grad(pred.size());
      spectral_l1_cpu(pred.data(), target.data(), sums, expected_grad.data(), dtype, shape,
                      kSerial);
      compare("spectral_l1, spatial " + describe(shape), sum, spatial.bytes(),
              pack(sum, {sums[0]}));
      compare("spectral_l1, spectral " + describe(shape), sum, spectral.bytes(),
              pack(sum, {sums[1]}));
      compare("spectral_l1's gradient " + describe(shape), dtype, grad.bytes(), expected_grad);
    }
  }
}

void check_boxes() {
  const int64_t n = 45, m = 300;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Bytes a = pack(dtype, random_boxes(n, false, 100));
    const Bytes b = pack(dtype, random_boxes(m, false, 1000));
    const Bytes grad = pack(dtype, random(n * m, -1, 1, 8));
    Buffer a_device(a), b_device(b), grad_device(grad), iou(grad.size()), grad_a(a.size());
    run(box_iou_rotated_cuda_workspace(n, m), [&](void* workspace) {
      return box_iou_rotated_cuda(a_device.data(), n, b_device.data(), m, false, iou.data(), dtype,
                                  workspace, nullptr);
    });
    Bytes expected(grad.size()), expected_grad(a.size());
    box_iou_rotated_cpu(a.data(), n, b.data(), m, false, expected.data(), dtype, kSerial);
    compare_bits(std::string("box_iou_rotated ") + name_of(dtype), iou.bytes(), expected);
    run(box_iou_rotated_cuda_workspace(n, m), [&](void* workspace) {
      return box_iou_rotated_backward_cuda(grad_device.data(), a_device.data(), n, b_device.data(),
                                           m, false, grad_a.data(), dtype, workspace, nullptr);
    });
    box_iou_rotated_backward_cpu(grad.data(), a.data(), n, b.data(), m, false, expected_grad.data(),
                                 dtype, kSerial);
    compare("box_iou_rotated's gradient", dtype, grad_a.bytes(), expected_grad);

    std::vector<int64_t> order(m);
    for (int64_t i = 0; i < m; ++i) order[i] = (i * 7) % m;
    Buffer order_device(bytes_of(order)), keep(static_cast<size_t>(m));
    run(nms_rotated_cuda_workspace(m), [&](void* workspace) {
      return nms_rotated_cuda(b_device.data(), static_cast<const int64_t*>(order_device.data()),
                              nullptr, m, 0.1, static_cast<bool*>(keep.data()), dtype, workspace,
                              nullptr);
    });
    const std::unique_ptr<bool[]> expected_keep(new bool[m]());
    nms_rotated_cpu(b.data(), order.data(), nullptr, m, 0.1, expected_keep.get(), dtype, kSerial);
    Bytes kept(m);
    for (int64_t i = 0; i < m; ++i) kept[i] = expected_keep[i];
    compare_bits(std::string("nms_rotated ") + name_of(dtype), keep.bytes(), kept);
  }
}

void check_roi() {
  const Shape shape{2, 20, 17, 40};
  const int64_t k = 30;
  const Values boxes = random_boxes(k, true, 2000);
  Buffer boxes_device(bytes_of(boxes));
  const auto* on_device = static_cast<const double*>(boxes_device.data());
  for (const RoiGrid grid : {RoiGrid{7, 7, 0.25, 0}, RoiGrid{3, 2, 0.25, 2}}) {
    for (const Layout layout : {Layout::kNhwc, Layout::kNchw}) {
      for (const DType dtype : kDTypes) {
        const Bytes x = pack(dtype, random(count(shape), -1, 1, 9));
        const int64_t outputs = k * grid.height * grid.width * shape.channels;
        const Bytes grad = pack(dtype, random(outputs, -1, 1, 10));
        Buffer x_device(x), grad_device(grad), y(grad.size()), grad_x(x.size());
        run(roi_align_rotated_cuda_workspace(k), [&](void* workspace) {
          return roi_align_rotated_cuda(x_device.data(), on_device, k, grid, y.data(), dtype, shape,
                                        layout, workspace, nullptr);
        });
        Bytes expected(grad.size()), expected_grad(x.size());
        roi_align_rotated_cpu(x.data(), boxes.data(), k, grid, expected.data(), dtype, shape,
                              layout, kSerial);
        compare("roi_align_rotated", dtype, y.bytes(), expected);
        run(roi_align_rotated_cuda_workspace(k), [&](void* workspace) {
          return roi_align_rotated_backward_cuda(grad_device.data(), on_device, k, grid,
                                                 grad_x.data(), dtype, shape, layout, workspace,
                                                 nullptr);
        });
        roi_align_rotated_backward_cpu(grad.data(), boxes.data(), k, grid, expected_grad.data(),
                                       dtype, shape, layout, kSerial);
        compare("roi_align_rotated's gradient", dtype, grad_x.bytes(), expected_grad);
      }
    }
  }
}

// Rows of whole 16-byte accesses, and of single elements.
constexpr int64_t kRowChannels[] = {128, 37};

void check_norm() {
  for (const int64_t channels : kRowChannels) {
    for (const DType dtype : kDTypes) {
      for (const NormStep step : {NormStep::kGate, NormStep::kAdd}) {
        const bool gate = step == NormStep::kGate;
        const int64_t rows = 21;
        const DType parameter = parameter_dtype(dtype);
        const Bytes x = pack(dtype, random(rows * channels, -1, 1, 11));
        const Bytes other = pack(dtype, random(rows * channels, -1, 1, 12));
        const Bytes grad = pack(dtype, random(rows * channels, -1, 1, 13));
        const Bytes weight = pack(parameter, random(channels, -1, 1, 14));
        const Bytes bias = pack(parameter, random(channels, -1, 1, 15));
        Buffer x_device(x), other_device(other), grad_device(grad), weight_device(weight),
            bias_device(bias), y(x.size()), grad_x(x.size()), grad_other(gate ? x.size() : 0),
            grad_weight(weight.size()), grad_bias(bias.size());
        const NormParameters norm{weight_device.data(), bias_device.data(), 1e-5};
        const NormRows size{rows, channels, channels, channels};
        run(0, [&](void*) {
          return layer_norm_cuda(step, x_device.data(), dtype, other_device.data(), dtype, norm,
                                 y.data(), size, nullptr);
        });
        run(layer_norm_backward_cuda_workspace(dtype, rows, channels), [&](void* workspace) {
          return layer_norm_backward_cuda(step, grad_device.data(), x_device.data(), dtype,
                                          other_device.data(), dtype, norm, grad_x.data(),
                                          gate ? grad_other.data() : nullptr, grad_weight.data(),
                                          grad_bias.data(), size, workspace, nullptr);
        });
        const NormParameters host{weight.data(), bias.data(), 1e-5};
        Bytes e_y(x.size()), e_x(x.size()), e_other(x.size()), e_weight(weight.size()),
            e_bias(bias.size());
        layer_norm_cpu(step, x.data(), other.data(), host, e_y.data(), dtype, rows, channels,
                       kSerial);
        layer_norm_backward_cpu(step, grad.data(), x.data(), other.data(), host, e_x.data(),
                                gate ? e_other.data() : nullptr, e_weight.data(), e_bias.data(),
                                dtype, rows, channels, kSerial);
        const std::string what =
            std::string(gate ? "gated norm " : "added norm ") + std::to_string(channels);
        compare(what, dtype, y.bytes(), e_y);
        compare(what + ", gradient of x", dtype, grad_x.bytes(), e_x);
        if (gate) compare(what + ", gradient of the gate", dtype, grad_other.bytes(), e_other);
        compare(what + ", gradient of the weight", parameter, grad_weight.bytes(), e_weight);
        compare(what + ", gradient of the bias", parameter, grad_bias.bytes(), e_bias);
      }
    }
  }
}

void check_correction() {
  for (const int64_t channels : kRowChannels) {
    for (const DType dtype : kDTypes) {
      const Shape shape{2, 5, 4, channels};
      const DType parameter = parameter_dtype(dtype);
      const Bytes x = pack(dtype, random(count(shape), -1, 1, 16));
      const Bytes grad = pack(dtype, random(count(shape), -1, 1, 17));
      std::vector<Bytes> parameters;
      for (const int64_t size :
           {count(shape) / shape.batch, channels, channels, 9 * channels, channels})
        parameters.push_back(pack(parameter, random(size, -1, 1, 18)));
      Buffer x_device(x), grad_device(grad), y(x.size()), grad_x(x.size());
      std::vector<std::unique_ptr<Buffer>> held, found;
      std::vector<Bytes> expected;
      for (const Bytes& bytes : parameters) {
        held.push_back(std::make_unique<Buffer>(bytes));
        found.push_back(std::make_unique<Buffer>(bytes.size()));
        expected.emplace_back(bytes.size());
      }
      const auto at = [&](int i) { return held[i]->data(); };
      const CorrectionParameters device{at(0), {at(1), at(2), 1e-5}, at(3), at(4)};
      run(spatial_correction_conv_cuda_workspace(dtype, shape), [&](void* workspace) {
        return spatial_correction_conv_cuda(x_device.data(), device, y.data(), dtype, shape,
                                            workspace, nullptr);
      });
      run(spatial_correction_conv_backward_cuda_workspace(dtype, shape), [&](void* workspace) {
        const CorrectionGradients gradients{grad_x.data(),    found[0]->data(), found[1]->data(),
                                            found[2]->data(), found[3]->data(), found[4]->data()};
        return spatial_correction_conv_backward_cuda(grad_device.data(), x_device.data(), device,
                                                     gradients, dtype, shape, workspace, nullptr);
      });
      const CorrectionParameters host{parameters[0].data(),
                                      {parameters[1].data(), parameters[2].data(), 1e-5},
                                      parameters[3].data(),
                                      parameters[4].data()};
      Bytes e_y(x.size()), e_x(x.size());
      spatial_correction_conv_cpu(x.data(), host, e_y.data(), dtype, shape, kSerial);
      spatial_correction_conv_backward_cpu(
          grad.data(), x.data(), host,
          {e_x.data(), expected[0].data(), expected[1].data(), expected[2].data(),
           expected[3].data(), expected[4].data()},
          dtype, shape, kSerial);
      const std::string what = "spatial correction " + std::to_string(channels);
      compare(what, dtype, y.bytes(), e_y);
      compare(what + ", gradient of x", dtype, grad_x.bytes(), e_x);
      for (size_t i = 0; i < found.size(); ++i)
        compare(what + ", gradient of parameter " + std::to_string(i), parameter, found[i]->bytes(),
                expected[i]);
    }
  }
}

struct Check {
  const char* name;
  void (*run)();
};
constexpr Check kChecks[] = {{"heat", check_heat},   {"dct", check_dct},
                             {"split", check_split}, {"loss", check_loss},
                             {"boxes", check_boxes}, {"roi", check_roi},
                             {"norm", check_norm},   {"correction", check_correction}};

}  // namespace

int main(int argc, char** argv) {
  const std::string prefix = argc > 1 ? argv[1] : "";
  for (const Check& check : kChecks) {
    if (std::string(check.name).rfind(prefix, 0) != 0) continue;
    check.run();
    std::printf("%s: done\n", check.name);
  }
  if (compared == 0) {
    std::fprintf(stderr, "no check begins with %s\n", prefix.c_str());
    return 2;
  }
  std::printf("%d of %d results are wrong\n", wrong, compared);
  return wrong > 0;
}
