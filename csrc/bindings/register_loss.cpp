#include "bindings/bindings.h"
#include "ops/loss.h"

namespace quernel {

void register_loss(py::module_& m) {
  m.def(
      "loss",
      [](const std::string& kind, const Tensor& x, const Optional& target, const Optional& weight, double a, double b) {
        return ops::loss(kind, x, or_none(target), or_none(weight), {a, b});
      },
      py::arg("kind"), py::arg("x"), py::arg("target"), py::arg("weight") = py::none(), py::arg("a") = 0.0,
      py::arg("b") = -1.0, Unlocked());
  m.def(
      "loss_grad",
      [](const std::string& kind, const Tensor& x, const Optional& target, const Optional& weight, const Tensor& g,
         double a, double b,
         double scale) { return ops::loss_grad(kind, x, or_none(target), or_none(weight), g, {a, b}, scale); },
      py::arg("kind"), py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("g"), py::arg("a") = 0.0,
      py::arg("b") = -1.0, py::arg("scale") = 1.0, Unlocked());
}

}  // namespace quernel
