#include <optional>

#include "bindings/bindings.h"
#include "ops/optim.h"

namespace quernel {

void register_optim(py::module_& m) {
  m.def(
      "sgd_",
      [](const Tensor& param, const Tensor& grad, const std::optional<Tensor>& momentum, const Tensor& hyper,
         const Tensor& step) { ops::sgd(param, grad, momentum.value_or(Tensor()), hyper, step); },
      py::arg("param"), py::arg("grad"), py::arg("momentum"), py::arg("hyper"), py::arg("step"), Unlocked());
  m.def("adam_", &ops::adam, py::arg("param"), py::arg("grad"), py::arg("m"), py::arg("v"), py::arg("hyper"),
        py::arg("step"), Unlocked());
  m.def("advance_step_", &ops::advance_step, py::arg("step"), Unlocked());
}

}  // namespace quernel
