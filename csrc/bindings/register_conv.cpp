#include "bindings/bindings.h"
#include "ops/conv.h"

namespace quernel {
namespace {

using ops::Pair;

std::pair<Tensor, Optional> conv2d(const Tensor& x, const Tensor& weight, const Optional& bias,
                                   const Optional& residual, const std::string& activation, bool save_pre, Pair stride,
                                   Pair padding, Pair dilation, int64_t groups) {
  const auto [y, pre] = ops::conv2d(
      x, weight,
      {bias.value_or(Tensor()), residual.value_or(Tensor()), ops::activation_from_name("conv2d", activation), save_pre},
      {stride, padding, dilation, groups});
  return {y, pre.defined() ? Optional(pre) : std::nullopt};
}

Tensor conv2d_grad_input(const Tensor& g, const Tensor& weight, const std::vector<int64_t>& x_shape, Pair stride,
                         Pair padding, Pair dilation, int64_t groups) {
  return ops::conv2d_grad_input(g, weight, Shape(x_shape), {stride, padding, dilation, groups});
}

Tensor conv2d_grad_weight(const Tensor& x, const Tensor& g, const std::vector<int64_t>& weight_shape, Pair stride,
                          Pair padding, Pair dilation, int64_t groups) {
  return ops::conv2d_grad_weight(x, g, Shape(weight_shape), {stride, padding, dilation, groups});
}

}  // namespace

void register_conv(py::module_& m) {
  constexpr Pair kOnes{1, 1}, kZeros{0, 0};
  m.def("conv2d", &conv2d, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
        py::arg("residual") = py::none(), py::arg("activation") = "none", py::arg("save_pre") = false,
        py::arg("stride") = kOnes, py::arg("padding") = kZeros, py::arg("dilation") = kOnes, py::arg("groups") = 1,
        Unlocked());
  m.def("conv2d_grad_input", &conv2d_grad_input, py::arg("g"), py::arg("weight"), py::arg("x_shape"),
        py::arg("stride") = kOnes, py::arg("padding") = kZeros, py::arg("dilation") = kOnes, py::arg("groups") = 1,
        Unlocked());
  m.def("conv2d_grad_weight", &conv2d_grad_weight, py::arg("x"), py::arg("g"), py::arg("weight_shape"),
        py::arg("stride") = kOnes, py::arg("padding") = kZeros, py::arg("dilation") = kOnes, py::arg("groups") = 1,
        Unlocked());
}

}  // namespace quernel
