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
  const auto update_rows = [&m](const char* name, void (*op)(const ops::Update&, const Tensor&)) {
    m.def(
        name,
        [op](const Tensor& param, const Tensor& grad, const std::vector<Tensor>& states, const Tensor& hyper,
             const Tensor& step, const Tensor& rows) { op({param, grad, states, hyper, step}, rows); },
        py::arg("param"), py::arg("grad"), py::arg("states"), py::arg("hyper"), py::arg("step"), py::arg("rows"),
        Unlocked());
  };
  update_rows("sgd_rows_", &ops::sgd_rows);
  update_rows("adam_rows_", &ops::adam_rows);
  m.def("advance_step_", &ops::advance_step, py::arg("step"), Unlocked());
  m.def("moving_average_", &ops::moving_average, py::arg("average"), py::arg("param"), py::arg("hyper"),
        py::arg("step"), Unlocked());
}

}  // namespace quernel
