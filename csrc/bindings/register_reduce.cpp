#include "bindings/bindings.h"
#include "ops/reduce.h"

namespace quernel {

void register_reduce(py::module_& m) {
  m.def("sum", &ops::sum, py::arg("x"), py::arg("axes"), Unlocked());
  m.def("mean", &ops::mean, py::arg("x"), py::arg("axes"), Unlocked());
  m.def("max", &ops::max, py::arg("x"), py::arg("axes"), Unlocked());
}

}  // namespace quernel
