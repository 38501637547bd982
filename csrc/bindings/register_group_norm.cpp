#include "bindings/bindings.h"
#include "ops/group_norm.h"

namespace quernel {

void register_group_norm(py::module_& m) {
  m.def("group_norm_stats", &ops::group_norm_stats, py::arg("x"), py::arg("groups"), Unlocked());
  m.def(
      "group_norm",
      [](const Tensor& x, const Tensor& mean, const Tensor& var, const Optional& weight, const Optional& bias,
         double eps) { return ops::group_norm(x, mean, var, or_none(weight), or_none(bias), eps); },
      py::arg("x"), py::arg("mean"), py::arg("var"), py::arg("weight"), py::arg("bias"), py::arg("eps"), Unlocked());
  m.def(
      "group_norm_grad",
      [](const Tensor& x, const Tensor& g, const Tensor& mean, const Tensor& var, const Optional& weight, double eps) {
        return ops::group_norm_grad(x, g, mean, var, or_none(weight), eps);
      },
      py::arg("x"), py::arg("g"), py::arg("mean"), py::arg("var"), py::arg("weight"), py::arg("eps"), Unlocked());
}

}  // namespace quernel
