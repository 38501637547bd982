#include <string>

#include "bindings/bindings.h"
#include "ops/random.h"

namespace quernel {
namespace {

using RandomOp = Tensor (*)(const Shape&, double, double, DType, const Generator&, Device);

template <RandomOp kOp>
Tensor draw(const std::vector<int64_t>& shape, double a, double b, const std::string& dtype, const Generator& g) {
  return kOp(Shape(shape), a, b, dtype_from_name(dtype.c_str()), g, default_device());
}

}  // namespace

void register_random(py::module_& m) {
  py::class_<Generator>(m, "Generator", "A random stream: a seed, and a base that grows by what every op draws.")
      .def(py::init<uint64_t>(), py::arg("seed"))
      .def_property_readonly("seed", &Generator::seed)
      .def_property_readonly("base", &Generator::base)
      .def("set", &Generator::set, py::arg("seed"), py::arg("base"));
  m.def("dropout", &ops::dropout, py::arg("x"), py::arg("p"), py::arg("generator"), Unlocked());
  m.def("dropout_grad", &ops::dropout_grad, py::arg("g"), py::arg("mask"), py::arg("p"), Unlocked());
  m.def("uniform", &draw<ops::uniform>, py::arg("shape"), py::arg("lo"), py::arg("hi"), py::arg("dtype"),
        py::arg("generator"), Unlocked());
  m.def("normal", &draw<ops::normal>, py::arg("shape"), py::arg("mean"), py::arg("std"), py::arg("dtype"),
        py::arg("generator"), Unlocked());
}

}  // namespace quernel
