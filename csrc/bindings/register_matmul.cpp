#include "bindings/bindings.h"
#include "bindings/direct.h"
#include "ops/bf16.h"
#include "ops/matmul.h"

namespace quernel {
namespace {

using Linear = ops::OutputAndPre(const Tensor&, const Tensor&, const ops::EpilogueSpec&);

template <Linear* linear>
std::pair<Tensor, Optional> call(const Tensor& x, const Tensor& weight, const Optional& bias, const Optional& residual,
                                 const std::string& activation, bool save_pre) {
  const auto [y, pre] =
      linear(x, weight, {or_none(bias), or_none(residual), ops::activation_from_name("linear", activation), save_pre});
  return {y, pre.defined() ? Optional(pre) : std::nullopt};
}

template <Linear* linear>
void register_linear(py::module_& m, const char* name) {
  m.def(name, &call<linear>, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
        py::arg("residual") = py::none(), py::arg("activation") = "none", py::arg("save_pre") = false, Unlocked());
}

}  // namespace

void register_matmul(py::module_& m) {
  m.def("matmul", &ops::matmul, py::arg("a"), py::arg("b"), py::arg("transpose_a") = false,
        py::arg("transpose_b") = false, Unlocked());
  m.def("matmul_bf16", &ops::matmul_bf16, py::arg("a"), py::arg("b"), py::arg("transpose_a") = false,
        py::arg("transpose_b") = false, Unlocked());
  m.def("linear_grad_weight", &ops::linear_grad_weight, py::arg("g"), py::arg("x"), Unlocked());
  register_linear<ops::linear>(m, "linear");
  register_linear<ops::linear_bf16>(m, "linear_bf16");
  register_linear<ops::linear_f16>(m, "linear_f16");
  add_direct(
      {"matmul", 2, 0, [](const Direct&, const Tensor* const* x) { return ops::matmul(*x[0], *x[1], false, false); }});
  add_direct({"linear", 3, 0, [](const Direct&, const Tensor* const* x) {  // with a bias
                ops::EpilogueSpec epilogue;
                epilogue.bias = *x[2];
                return ops::linear(*x[0], *x[1], epilogue).first;
              }});
}

}  // namespace quernel
