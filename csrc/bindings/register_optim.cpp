#include "bindings/bindings.h"
#include "ops/optim.h"

namespace quernel {

void register_optim(py::module_& m) {
  const auto update = [&m](const char* name, void (*op)(const ops::Update&)) {
    m.def(
        name,
        [op](const Tensor& param, const Tensor& grad, const std::vector<Optional>& states, const Tensor& hyper,
             const Tensor& step) {
          std::vector<Tensor> kept;
          for (const Optional& state : states) kept.push_back(or_none(state));
          op({param, grad, kept, hyper, step});
        },
        py::arg("param"), py::arg("grad"), py::arg("states"), py::arg("hyper"), py::arg("step"), Unlocked());
  };
  update("sgd_", &ops::sgd);
  update("adagrad_", &ops::adagrad);
  update("rmsprop_", &ops::rmsprop);
  update("adam_", &ops::adam);
  update("nadam_", &ops::nadam);
  update("lion_", &ops::lion);
  m.def("advance_step_", &ops::advance_step, py::arg("step"), Unlocked());
  m.def("moving_average_", &ops::moving_average, py::arg("average"), py::arg("param"), py::arg("hyper"),
        py::arg("step"), Unlocked());
}

}  // namespace quernel
