#include "bindings/bindings.h"
#include "ops/quant.h"

namespace quernel {

void register_quant(py::module_& m) {
  using ops::Pair, ops::QParams;
  const Pair one{1, 1}, zero{0, 0};

  m.def("quantize", &ops::quantize, py::arg("x"), py::arg("scale"), py::arg("zero_point"), Unlocked());
  m.def("dequantize", &ops::dequantize, py::arg("x"), py::arg("scale"), py::arg("zero_point"), Unlocked());
  m.def(
      "qlinear",
      [](const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& scale, int32_t zero_point, int32_t lo,
         int32_t hi, bool out_float) { return ops::qlinear(x, weight, {bias, scale, zero_point, lo, hi, out_float}); },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("scale"), py::arg("zero_point"), py::arg("lo"),
      py::arg("hi"), py::arg("out_float") = false, Unlocked());
  m.def(
      "qconv2d",
      [](const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& scale, int32_t zero_point, int32_t lo,
         int32_t hi, int32_t x_zero_point, Pair stride, Pair padding, Pair dilation, int64_t groups, bool out_float) {
        return ops::qconv2d(x, weight, {bias, scale, zero_point, lo, hi, out_float},
                            {x_zero_point, stride, padding, dilation, groups});
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("scale"), py::arg("zero_point"), py::arg("lo"),
      py::arg("hi"), py::arg("x_zero_point"), py::arg("stride") = one, py::arg("padding") = zero,
      py::arg("dilation") = one, py::arg("groups") = 1, py::arg("out_float") = false, Unlocked());
  m.def(
      "qadd",
      [](const Tensor& a, float a_scale, int32_t a_zp, const Tensor& b, float b_scale, int32_t b_zp, float y_scale,
         int32_t y_zp, int32_t lo,
         int32_t hi) { return ops::qadd(a, {a_scale, a_zp}, b, {b_scale, b_zp}, {y_scale, y_zp}, lo, hi); },
      py::arg("a"), py::arg("a_scale"), py::arg("a_zp"), py::arg("b"), py::arg("b_scale"), py::arg("b_zp"),
      py::arg("y_scale"), py::arg("y_zp"), py::arg("lo"), py::arg("hi"), Unlocked());
  m.def("qlookup", &ops::qlookup, py::arg("x"), py::arg("table"), Unlocked());
  m.def("qmax_pool2d", &ops::qmax_pool2d, py::arg("x"), py::arg("kernel_size"), py::arg("stride"),
        py::arg("padding") = zero, Unlocked());
  m.def("qavg_pool2d", &ops::qavg_pool2d, py::arg("x"), py::arg("kernel_size"), py::arg("stride"),
        py::arg("padding") = zero, py::arg("zero_point") = 0, py::arg("count_include_pad") = true, Unlocked());
  m.def("qmean_hw", &ops::qmean_hw, py::arg("x"), Unlocked());
}

}  // namespace quernel
