#include "bindings/bindings.h"
#include "ops/softmax.h"

namespace quernel {

void register_softmax(py::module_& m) {
  m.def("softmax", &ops::softmax, py::arg("x"), Unlocked());
  m.def("log_softmax", &ops::log_softmax, py::arg("x"), Unlocked());
  m.def("softmax_grad", &ops::softmax_grad, py::arg("y"), py::arg("g"), Unlocked());
  m.def("log_softmax_grad", &ops::log_softmax_grad, py::arg("y"), py::arg("g"), Unlocked());
  m.def("cross_entropy", &ops::cross_entropy, py::arg("logits"), py::arg("labels"), Unlocked());
  m.def("cross_entropy_grad", &ops::cross_entropy_grad, py::arg("logits"), py::arg("labels"), py::arg("g"), Unlocked());
}

}  // namespace quernel
