#include "bindings/bindings.h"
#include "ops/layout.h"

namespace quernel {

void register_layout(py::module_& m) {
  using Dims = std::vector<int64_t>;
  m.def("transpose", &ops::transpose, py::arg("x"), py::arg("axes"), Unlocked());
  m.def(
      "slice",
      [](const Tensor& x, Dims starts, Dims steps, Dims sizes) {
        return ops::slice(x, {std::move(starts), std::move(steps), std::move(sizes)});
      },
      py::arg("x"), py::arg("starts"), py::arg("steps"), py::arg("sizes"), Unlocked());
  m.def(
      "assign_slice_",
      [](const Tensor& dst, Dims starts, Dims steps, Dims sizes, const Tensor& src) {
        ops::assign_slice(dst, {std::move(starts), std::move(steps), std::move(sizes)}, src);
      },
      py::arg("dst"), py::arg("starts"), py::arg("steps"), py::arg("sizes"), py::arg("src"), Unlocked());
  m.def("concat", &ops::concat, py::arg("inputs"), py::arg("axis"), Unlocked());
  m.def("pad", &ops::pad, py::arg("x"), py::arg("widths"), py::arg("value"), Unlocked());
  m.def(
      "broadcast_to", [](const Tensor& x, const Dims& shape) { return ops::broadcast_to(x, Shape(shape)); },
      py::arg("x"), py::arg("shape"), Unlocked());
}

}  // namespace quernel
