#include "bindings/bindings.h"
#include "ops/pool.h"

namespace quernel {
namespace {

using Pair = std::array<int64_t, 2>;
using Largest = std::pair<Tensor, Optional>;

Largest with_taps(const std::pair<Tensor, Tensor>& result) {
  return {result.first, result.second.defined() ? Optional(result.second) : std::nullopt};
}

}  // namespace

void register_pool(py::module_& m) {
  m.def(
      "max_pool2d",
      [](const Tensor& x, Pair kernel, Pair stride, Pair padding, Pair dilation, bool ceil_mode, bool want_taps) {
        return with_taps(ops::max_pool2d(x, {kernel, stride, padding, dilation, ceil_mode}, want_taps));
      },
      py::arg("x"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("dilation") = Pair{1, 1},
      py::arg("ceil_mode") = false, py::arg("want_taps") = true, Unlocked(), "(y, int32 taps or None).");
  m.def(
      "max_pool2d_grad",
      [](const Tensor& g, const Tensor& index, const std::vector<int64_t>& x_shape, Pair kernel, Pair stride,
         Pair padding, Pair dilation, bool ceil_mode) {
        return ops::max_pool2d_grad(g, index, Shape(x_shape), {kernel, stride, padding, dilation, ceil_mode});
      },
      py::arg("g"), py::arg("index"), py::arg("x_shape"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
      py::arg("dilation") = Pair{1, 1}, py::arg("ceil_mode") = false, Unlocked());
  m.def(
      "avg_pool2d",
      [](const Tensor& x, Pair kernel, Pair stride, Pair padding, bool ceil_mode, bool count_include_pad) {
        return ops::avg_pool2d(x, {kernel, stride, padding, {1, 1}, ceil_mode}, count_include_pad);
      },
      py::arg("x"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("ceil_mode"),
      py::arg("count_include_pad"), Unlocked());
  m.def(
      "avg_pool2d_grad",
      [](const Tensor& g, const std::vector<int64_t>& x_shape, Pair kernel, Pair stride, Pair padding, bool ceil_mode,
         bool count_include_pad) {
        return ops::avg_pool2d_grad(g, Shape(x_shape), {kernel, stride, padding, {1, 1}, ceil_mode}, count_include_pad);
      },
      py::arg("g"), py::arg("x_shape"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
      py::arg("ceil_mode"), py::arg("count_include_pad"), Unlocked());
  m.def(
      "adaptive_max_pool2d",
      [](const Tensor& x, Pair output, bool want_taps) {
        return with_taps(ops::adaptive_max_pool2d(x, output, want_taps));
      },
      py::arg("x"), py::arg("output_size"), py::arg("want_taps") = true, Unlocked(), "(y, int32 taps or None).");
  m.def(
      "adaptive_max_pool2d_grad",
      [](const Tensor& g, const Tensor& index, const std::vector<int64_t>& x_shape) {
        return ops::adaptive_max_pool2d_grad(g, index, Shape(x_shape));
      },
      py::arg("g"), py::arg("index"), py::arg("x_shape"), Unlocked());
  m.def("adaptive_avg_pool2d", &ops::adaptive_avg_pool2d, py::arg("x"), py::arg("output_size"), Unlocked());
  m.def(
      "adaptive_avg_pool2d_grad",
      [](const Tensor& g, const std::vector<int64_t>& x_shape) {
        return ops::adaptive_avg_pool2d_grad(g, Shape(x_shape));
      },
      py::arg("g"), py::arg("x_shape"), Unlocked());
}

}  // namespace quernel
