#include "bindings/bindings.h"
#include "ops/pool.h"

namespace quernel {
namespace {

using Pair = std::array<int64_t, 2>;

}  // namespace

void register_pool(py::module_& m) {
  m.def(
      "max_pool2d",
      [](const Tensor& x, Pair kernel, Pair stride, Pair padding) {
        return ops::max_pool2d(x, {kernel, stride, padding});
      },
      py::arg("x"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), Unlocked(), "(y, int32 taps).");
  m.def(
      "max_pool2d_grad",
      [](const Tensor& g, const Tensor& index, const std::vector<int64_t>& x_shape, Pair kernel, Pair stride,
         Pair padding) { return ops::max_pool2d_grad(g, index, Shape(x_shape), {kernel, stride, padding}); },
      py::arg("g"), py::arg("index"), py::arg("x_shape"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
      Unlocked());
  m.def(
      "avg_pool2d",
      [](const Tensor& x, Pair kernel, Pair stride, Pair padding, bool count_include_pad) {
        return ops::avg_pool2d(x, {kernel, stride, padding}, count_include_pad);
      },
      py::arg("x"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("count_include_pad"),
      Unlocked());
  m.def(
      "avg_pool2d_grad",
      [](const Tensor& g, const std::vector<int64_t>& x_shape, Pair kernel, Pair stride, Pair padding,
         bool count_include_pad) {
        return ops::avg_pool2d_grad(g, Shape(x_shape), {kernel, stride, padding}, count_include_pad);
      },
      py::arg("g"), py::arg("x_shape"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
      py::arg("count_include_pad"), Unlocked());
}

}  // namespace quernel
