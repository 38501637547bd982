#include "bindings/bindings.h"
#include "ops/conv.h"

namespace quernel {
namespace {

using ops::Pair;
using Sizes = std::vector<int64_t>;
using End = std::optional<Pair>;

ops::EpilogueSpec epilogue(const char* op, const Optional& bias, const Optional& residual,
                           const std::string& activation, bool save_pre) {
  return {or_none(bias), or_none(residual), ops::activation_from_name(op, activation), save_pre};
}

std::pair<Tensor, Optional> with_optional(const ops::OutputAndPre& result) {
  return {result.first, optional(result.second)};
}

std::pair<Tensor, Optional> conv2d(const Tensor& x, const Tensor& weight, const Optional& bias,
                                   const Optional& residual, const std::string& activation, bool save_pre, Pair stride,
                                   Pair padding, Pair dilation, int64_t groups, End padding_end, bool bf16) {
  return with_optional(ops::conv2d(x, weight, epilogue("conv2d", bias, residual, activation, save_pre),
                                   {stride, padding, dilation, groups, padding_end, bf16}));
}

std::pair<Tensor, Optional> conv_transpose2d(const Tensor& x, const Tensor& weight, const Sizes& y_shape,
                                             const Optional& bias, const Optional& residual,
                                             const std::string& activation, bool save_pre, Pair stride, Pair padding,
                                             Pair dilation, int64_t groups, End padding_end, bool bf16) {
  return with_optional(ops::conv_transpose2d(x, weight, Shape(y_shape),
                                             epilogue("conv_transpose2d", bias, residual, activation, save_pre),
                                             {stride, padding, dilation, groups, padding_end, bf16}));
}

Tensor conv2d_grad_input(const Tensor& g, const Tensor& weight, const Sizes& x_shape, Pair stride, Pair padding,
                         Pair dilation, int64_t groups, End padding_end, bool bf16) {
  return ops::conv2d_grad_input(g, weight, Shape(x_shape), {stride, padding, dilation, groups, padding_end, bf16});
}

Tensor conv2d_grad_weight(const Tensor& x, const Tensor& g, const Sizes& weight_shape, Pair stride, Pair padding,
                          Pair dilation, int64_t groups, End padding_end, bool bf16) {
  return ops::conv2d_grad_weight(x, g, Shape(weight_shape), {stride, padding, dilation, groups, padding_end, bf16});
}

}  // namespace

void register_conv(py::module_& m) {
  constexpr Pair kOnes{1, 1}, kZeros{0, 0};
  m.def("conv2d", &conv2d, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
        py::arg("residual") = py::none(), py::arg("activation") = "none", py::arg("save_pre") = false,
        py::arg("stride") = kOnes, py::arg("padding") = kZeros, py::arg("dilation") = kOnes, py::arg("groups") = 1,
        py::arg("padding_end") = py::none(), py::arg("bf16") = false, Unlocked());
  m.def("conv_transpose2d", &conv_transpose2d, py::arg("x"), py::arg("weight"), py::arg("y_shape"),
        py::arg("bias") = py::none(), py::arg("residual") = py::none(), py::arg("activation") = "none",
        py::arg("save_pre") = false, py::arg("stride") = kOnes, py::arg("padding") = kZeros,
        py::arg("dilation") = kOnes, py::arg("groups") = 1, py::arg("padding_end") = py::none(),
        py::arg("bf16") = false, Unlocked());
  m.def("conv2d_grad_input", &conv2d_grad_input, py::arg("g"), py::arg("weight"), py::arg("x_shape"),
        py::arg("stride") = kOnes, py::arg("padding") = kZeros, py::arg("dilation") = kOnes, py::arg("groups") = 1,
        py::arg("padding_end") = py::none(), py::arg("bf16") = false, Unlocked());
  m.def("conv2d_grad_weight", &conv2d_grad_weight, py::arg("x"), py::arg("g"), py::arg("weight_shape"),
        py::arg("stride") = kOnes, py::arg("padding") = kZeros, py::arg("dilation") = kOnes, py::arg("groups") = 1,
        py::arg("padding_end") = py::none(), py::arg("bf16") = false, Unlocked());
}

}  // namespace quernel
