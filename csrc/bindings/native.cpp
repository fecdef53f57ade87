// SPDX-License-Identifier: Apache-2.0
// rsvheat._native: what is not a tensor op. It knows NumPy and the core, never torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "build_config.h"
#include "core/cpu/dispatch.h"
#include "core/cpu/plan_cache.h"
#include "core/dct.h"
#include "core/frequency_split.h"
#include "core/heat_conduction.h"
#include "core/plan_cache_registry.h"
#include "core/spectral_l1.h"

namespace py = pybind11;

namespace rsvheat {
namespace {

// ---- NumPy arrays as operands -------------------------------------------------------------------

std::string shape_to_string(const py::array& array) {
  return py::str(array.attr("shape")).cast<std::string>();
}

DType dtype_of(const char* name, const py::array& array) {
  if (py::isinstance<py::array_t<float>>(array)) return DType::kFloat32;
  if (py::isinstance<py::array_t<double>>(array)) return DType::kFloat64;
  throw py::type_error(std::string(name) + " must be float32 or float64, but it is " +
                       py::str(array.dtype()).cast<std::string>());
}

// `array` as C-contiguous and aligned, copied if it is not.
py::array dense(const py::array& array) {
  constexpr int kFlags = py::array::c_style;
  if (dtype_of("array", array) == DType::kFloat64) return py::array_t<double, kFlags>(array);
  return py::array_t<float, kFlags>(array);
}

py::array empty_like(const py::array& array) {
  return py::array(array.dtype(),
                   std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
}

Layout parse_layout(const std::string& layout) {
  if (layout == "nhwc") return Layout::kNhwc;
  if (layout == "nchw") return Layout::kNchw;
  throw py::value_error("layout must be 'nhwc' or 'nchw', but it is '" + layout + "'");
}

Shape shape_of(const char* name, const py::array& array, Layout layout) {
  if (array.ndim() != 4) {
    throw py::value_error(std::string(name) + " must have four dimensions, but its shape is " +
                          shape_to_string(array));
  }
  const py::ssize_t* s = array.shape();
  const Shape shape =
      layout == Layout::kNhwc ? Shape{s[0], s[1], s[2], s[3]} : Shape{s[0], s[2], s[3], s[1]};
  if (shape.height > kMaxTransformSize || shape.width > kMaxTransformSize) {
    throw py::value_error("height and width of " + std::string(name) + " must be at most " +
                          std::to_string(kMaxTransformSize) + ", but its shape is " +
                          shape_to_string(array));
  }
  return shape;
}

void check_like(const char* name, const py::array& array, const char* like_name,
                const py::array& like) {
  if (!array.attr("shape").equal(like.attr("shape"))) {
    throw py::value_error(std::string(name) + " must have the shape of " + like_name + ", " +
                          shape_to_string(like) + ", but its shape is " + shape_to_string(array));
  }
  if (dtype_of(name, array) != dtype_of(like_name, like)) {
    throw py::type_error(std::string(name) + " must have the dtype of " + like_name);
  }
}

// A dense array that broadcasts to (height, width, channels), and how the core reads it.
struct CoefficientArray {
  py::array array;
  Coefficients view;
};

CoefficientArray coefficients_of(const py::array& k, const py::array& x) {
  if (dtype_of("coefficients", k) != dtype_of("x", x)) {
    throw py::type_error("coefficients must have the dtype of x");
  }
  const py::array array = dense(k);
  std::array<int64_t, 3> strides{};
  int64_t stride = 1;
  bool broadcasts = array.ndim() <= 3;
  for (py::ssize_t axis = array.ndim() - 1, to = 2; broadcasts && axis >= 0; --axis, --to) {
    const py::ssize_t size = array.shape(axis);
    broadcasts = size == 1 || size == x.shape(to + 1);
    strides[to] = size == 1 ? 0 : stride;
    stride *= size;
  }
  if (!broadcasts) {
    throw py::value_error("coefficients must broadcast to (H, W, C) of x " + shape_to_string(x) +
                          ", but their shape is " + shape_to_string(array));
  }
  return {array, {array.data(), strides[0], strides[1], strides[2]}};
}

// ---- Kernels ------------------------------------------------------------------------------------

py::array transform(const py::array& x_any, const std::string& layout_name, bool inverse) {
  const Layout layout = parse_layout(layout_name);
  const Shape shape = shape_of("x", x_any, layout);
  const DType dtype = dtype_of("x", x_any);
  const py::array x = dense(x_any);
  py::array y = empty_like(x);
  const void* in = x.data();
  void* out = y.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    dct2d_cpu(in, out, dtype, shape, layout, inverse, kSerial);
  }
  return y;
}

py::array heat(const py::array& x_any, const py::array& k, Conduction kind) {
  const Shape shape = shape_of("x", x_any, Layout::kNhwc);
  const DType dtype = dtype_of("x", x_any);
  const py::array x = dense(x_any);
  const CoefficientArray coefficients = coefficients_of(k, x);
  py::array y = empty_like(x);
  const void* in = x.data();
  void* out = y.mutable_data();
  bool valid = false;
  {
    const py::gil_scoped_release unlocked;
    valid = heat_conduction_cpu(in, coefficients.view, kind, out, dtype, shape, kSerial);
  }
  if (!valid) {
    throw py::value_error("k holds a negative or NaN value; thermal diffusivity must be >= 0");
  }
  return y;
}

std::tuple<py::array, py::array> heat_backward(const py::array& grad_y_any, const py::array& x_any,
                                               const py::array& k, Conduction kind) {
  const Shape shape = shape_of("x", x_any, Layout::kNhwc);
  const DType dtype = dtype_of("x", x_any);
  check_like("grad_y", grad_y_any, "x", x_any);
  const py::array x = dense(x_any);
  const py::array grad_y = dense(grad_y_any);
  const CoefficientArray coefficients = coefficients_of(k, x);
  py::array grad_x = empty_like(x);
  py::array grad_k(x.dtype(), std::vector<py::ssize_t>(x.shape() + 1, x.shape() + 4));
  const void* in = x.data();
  const void* grad_in = grad_y.data();
  void* out_x = grad_x.mutable_data();
  void* out_k = grad_k.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    heat_conduction_backward_cpu(grad_in, in, coefficients.view, kind, out_x, out_k, dtype, shape,
                                 kSerial);
  }
  return {grad_x, grad_k};
}

std::tuple<py::array, py::array> frequency_split(
    const py::array& x_any, const py::array_t<double, py::array::c_style>& radius,
    const py::array_t<double, py::array::c_style>& angles) {
  const Shape shape = shape_of("x", x_any, Layout::kNchw);
  const DType dtype = dtype_of("x", x_any);
  if (radius.ndim() != 1 || radius.shape(0) != shape.batch) {
    throw py::value_error("radius must be (B,), but its shape is " + shape_to_string(radius));
  }
  if (angles.ndim() != 2 || angles.shape(0) != shape.batch || angles.shape(1) != 2) {
    throw py::value_error("angles must be (B, 2), but its shape is " + shape_to_string(angles));
  }
  const double* r = radius.data();
  const double* a = angles.data();
  for (int64_t b = 0; b < shape.batch; ++b) {
    // Written so that NaN fails.
    if (!(r[b] >= 0)) throw py::value_error("radius must be >= 0");
    if (!(0 <= a[2 * b] && a[2 * b] <= a[2 * b + 1] && a[2 * b + 1] <= 90)) {
      throw py::value_error("angles must hold 0 <= angles[b, 0] <= angles[b, 1] <= 90 degrees");
    }
  }
  const py::array x = dense(x_any);
  py::array low = empty_like(x);
  py::array high = empty_like(x);
  const void* in = x.data();
  void* out_low = low.mutable_data();
  void* out_high = high.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    frequency_split_cpu(in, r, a, out_low, out_high, dtype, shape, kSerial);
  }
  return {low, high};
}

std::tuple<double, double, py::array> spectral_l1(const py::array& pred_any,
                                                  const py::array& target_any) {
  const Shape shape = shape_of("pred", pred_any, Layout::kNchw);
  const DType dtype = dtype_of("pred", pred_any);
  check_like("target", target_any, "pred", pred_any);
  const py::array pred = dense(pred_any);
  const py::array target = dense(target_any);
  py::array grad = empty_like(pred);
  const void* in_pred = pred.data();
  const void* in_target = target.data();
  void* out = grad.mutable_data();
  double sums[2] = {0.0, 0.0};
  {
    const py::gil_scoped_release unlocked;
    spectral_l1_cpu(in_pred, in_target, sums, out, dtype, shape, kSerial);
  }
  return {sums[0], sums[1], grad};
}

// ---- The build and the process ------------------------------------------------------------------

py::dict build_info() {
  py::dict info;
  info["version"] = RSVHEAT_VERSION;
  info["compiler"] = RSVHEAT_COMPILER;
  info["compiler_flags"] = RSVHEAT_COMPILER_FLAGS;
  info["torch"] = RSVHEAT_TORCH_VERSION;
  info["cuda_archs"] = RSVHEAT_CUDA_ARCHS;
  return info;
}

std::vector<std::string> available_cpu_capabilities() {
  std::vector<std::string> names;
  for (const auto capability :
       {CpuCapability::kGeneric, CpuCapability::kAvx2, CpuCapability::kAvx512}) {
    if (cpu_capability_available(capability)) names.emplace_back(cpu_capability_name(capability));
  }
  return names;
}

void set_cpu_capability_by_name(const std::string& name) {
  CpuCapability capability{};
  if (!parse_cpu_capability(name.c_str(), &capability)) {
    throw py::value_error("name must be 'generic', 'avx2' or 'avx512', but it is '" + name + "'");
  }
  if (!set_cpu_capability(capability)) {
    throw py::value_error("this build or this CPU has no '" + name + "' kernels");
  }
}

std::optional<std::string> capability_warning() {
  const char* warning = cpu_capability_warning();
  return warning ? std::optional<std::string>(warning) : std::nullopt;
}

std::tuple<size_t, size_t> plan_cache_info() {
  const PlanCacheInfo info = cpu_plan_cache_info();
  return {info.plans, info.bytes};
}

std::optional<std::tuple<size_t, size_t>> cuda_plan_cache_info() {
  const CudaPlanCache* cache = cuda_plan_cache();
  if (!cache) return std::nullopt;
  return std::make_tuple(cache->size(), cache->capacity());
}

void clear_plan_caches() {
  clear_cpu_plan_cache();
  if (const CudaPlanCache* cache = cuda_plan_cache()) cache->clear();
}

}  // namespace
}  // namespace rsvheat

// The core is thread-safe, so free-threaded Python may run this module without its lock.
PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  using namespace rsvheat;
  using py::literals::operator""_a;

  m.doc() = "CPU kernels on NumPy arrays, and the state of the compiled libraries.";

  m.def("build_info", &build_info, "What this module was built with.");
  m.def(
      "cpu_capability", [] { return cpu_capability_name(cpu_capability()); },
      "The instruction set in use: 'generic', 'avx2' or 'avx512'.");
  m.def("available_cpu_capabilities", &available_cpu_capabilities,
        "The instruction sets that this build and this CPU have.");
  m.def("set_cpu_capability", &set_cpu_capability_by_name, "name"_a,
        "Use another instruction set from now on, in the whole process.");
  m.def("cpu_capability_warning", &capability_warning,
        "What was wrong with RSVHEAT_CPU_CAPABILITY, or None.");
  m.def("plan_cache_info", &plan_cache_info, "Cached CPU transform plans: their number and bytes.");
  m.def("cuda_plan_cache_info", &cuda_plan_cache_info,
        "Cached cuFFT plans, their number and its bound; None unless the CUDA library is loaded.");
  m.def("clear_plan_caches", &clear_plan_caches, "Drop all cached plans.");

  m.def(
      "dct2d",
      [](const py::array& x, const std::string& layout) { return transform(x, layout, false); },
      "x"_a, "layout"_a = "nhwc", "Orthonormal DCT-II over height and width.");
  m.def(
      "idct2d",
      [](const py::array& x, const std::string& layout) { return transform(x, layout, true); },
      "x"_a, "layout"_a = "nhwc", "Orthonormal DCT-III over height and width, dct2d's inverse.");
  m.def(
      "heat_conduction",
      [](const py::array& x, const py::array& k) { return heat(x, k, Conduction::kDiffusivity); },
      "x"_a, "k"_a, "Heat conduction of x (B, H, W, C) with k broadcastable to (H, W, C).");
  m.def(
      "heat_conduction_backward",
      [](const py::array& grad_y, const py::array& x, const py::array& k) {
        return heat_backward(grad_y, x, k, Conduction::kDiffusivity);
      },
      "grad_y"_a, "x"_a, "k"_a, "Gradients of heat_conduction for x and for k of shape (H, W, C).");
  m.def(
      "apply_heat_filter",
      [](const py::array& x, const py::array& filter) {
        return heat(x, filter, Conduction::kFilter);
      },
      "x"_a, "heat_filter"_a, "idct2d(dct2d(x) * heat_filter) of x (B, H, W, C).");
  m.def(
      "apply_heat_filter_backward",
      [](const py::array& grad_y, const py::array& x, const py::array& filter) {
        return heat_backward(grad_y, x, filter, Conduction::kFilter);
      },
      "grad_y"_a, "x"_a, "heat_filter"_a,
      "Gradients of apply_heat_filter for x and for a filter of shape (H, W, C).");
  m.def("frequency_split", &frequency_split, "x"_a, "radius"_a, "angles"_a,
        "Low and high band of x (B, C, H, W); radius (B,), angles (B, 2) in degrees.");
  m.def("spectral_l1", &spectral_l1, "pred"_a, "target"_a,
        "Sum of |d|, sum of |dct2d(d)| and the gradient of the latter, d = pred - target, NCHW.");
}
