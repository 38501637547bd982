#include "bindings/bindings.h"
#include "ops/norm.h"

namespace quernel {

void register_norm(py::module_& m) {
  m.def("batch_norm_stats", &ops::batch_norm_stats, py::arg("x"), Unlocked());
  m.def(
      "batch_norm",
      [](const Tensor& x, const Tensor& mean, const Tensor& var, const Optional& weight, const Optional& bias,
         double eps) { return ops::batch_norm(x, mean, var, or_none(weight), or_none(bias), eps); },
      py::arg("x"), py::arg("mean"), py::arg("var"), py::arg("weight"), py::arg("bias"), py::arg("eps"), Unlocked());
  m.def("batch_norm_update_", &ops::batch_norm_update, py::arg("mean"), py::arg("var"), py::arg("running_mean"),
        py::arg("running_var"), py::arg("momentum"), py::arg("rows"), Unlocked());
  m.def(
      "batch_norm_grad",
      [](const Tensor& x, const Tensor& g, const Tensor& mean, const Tensor& var, const Optional& weight, double eps) {
        return ops::batch_norm_grad(x, g, mean, var, or_none(weight), eps);
      },
      py::arg("x"), py::arg("g"), py::arg("mean"), py::arg("var"), py::arg("weight"), py::arg("eps"), Unlocked());
}

}  // namespace quernel
