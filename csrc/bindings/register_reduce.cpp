#include "bindings/bindings.h"
#include "ops/reduce.h"

namespace quernel {

void register_reduce(py::module_& m) {
  m.def("sum", &ops::sum, py::arg("x"), py::arg("axes"), Unlocked());
  m.def("mean", &ops::mean, py::arg("x"), py::arg("axes"), Unlocked());
  m.def("prod", &ops::prod, py::arg("x"), py::arg("axes"), Unlocked());
  m.def("max", &ops::max, py::arg("x"), py::arg("axes"), Unlocked());
  m.def("cumsum", &ops::cumsum, py::arg("x"), py::arg("axis"), py::arg("reverse"), Unlocked());
  m.def("arg_reduce", &ops::arg_reduce, py::arg("x"), py::arg("axis"), py::arg("smallest"), Unlocked());
  m.def("topk", &ops::topk, py::arg("x"), py::arg("k"), py::arg("largest"), Unlocked());
  m.def("topk_grad", &ops::topk_grad, py::arg("g"), py::arg("indices"), py::arg("cols"), Unlocked());
}

}  // namespace quernel
