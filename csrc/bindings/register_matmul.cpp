#include "bindings/bindings.h"
#include "ops/matmul.h"

namespace quernel {
namespace {

std::pair<Tensor, Optional> linear(const Tensor& x, const Tensor& weight, const Optional& bias,
                                   const Optional& residual, const std::string& activation, bool save_pre) {
  const auto [y, pre] = ops::linear(
      x, weight, {or_none(bias), or_none(residual), ops::activation_from_name("linear", activation), save_pre});
  return {y, pre.defined() ? Optional(pre) : std::nullopt};
}

}  // namespace

void register_matmul(py::module_& m) {
  m.def("matmul", &ops::matmul, py::arg("a"), py::arg("b"), py::arg("transpose_a") = false,
        py::arg("transpose_b") = false, Unlocked());
  m.def("linear", &linear, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
        py::arg("residual") = py::none(), py::arg("activation") = "none", py::arg("save_pre") = false, Unlocked());
}

}  // namespace quernel
