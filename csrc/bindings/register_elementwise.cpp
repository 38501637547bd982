#include "bindings/bindings.h"
#include "ops/elementwise.h"

namespace quernel {

void register_elementwise(py::module_& m) {
  m.def("neg", [](const Tensor& x) { return ops::unary("neg", UnaryOp::kNeg, x); }, py::arg("x"), Unlocked());
  m.def("copy_into_", &ops::copy_into, py::arg("dst"), py::arg("src"), Unlocked());
}

}  // namespace quernel
