#include "bindings/bindings.h"
#include "ops/softmax.h"

namespace quernel {

void register_softmax(py::module_& m) {
  m.def("softmax", &ops::softmax, py::arg("x"), Unlocked());
  m.def("log_softmax", &ops::log_softmax, py::arg("x"), Unlocked());
  m.def("softmax_grad", &ops::softmax_grad, py::arg("y"), py::arg("g"), Unlocked());
  m.def("log_softmax_grad", &ops::log_softmax_grad, py::arg("y"), py::arg("g"), Unlocked());
  m.def(
      "cross_entropy",
      [](const Tensor& logits, const Tensor& target, const Optional& weight, double smoothing, int64_t ignore_index,
         bool normalized) {
        return ops::cross_entropy(logits, target, or_none(weight), {smoothing, ignore_index, normalized});
      },
      py::arg("logits"), py::arg("target"), py::arg("weight") = py::none(), py::arg("smoothing") = 0.0,
      py::arg("ignore_index") = -100, py::arg("normalized") = false, Unlocked());
  m.def(
      "cross_entropy_grad",
      [](const Tensor& logits, const Tensor& target, const Tensor& g, const Optional& divisor, const Optional& weight,
         double smoothing, int64_t ignore_index, bool normalized, double scale) {
        return ops::cross_entropy_grad(logits, target, or_none(weight), g, or_none(divisor),
                                       {smoothing, ignore_index, normalized}, scale);
      },
      py::arg("logits"), py::arg("target"), py::arg("g"), py::arg("divisor") = py::none(),
      py::arg("weight") = py::none(), py::arg("smoothing") = 0.0, py::arg("ignore_index") = -100,
      py::arg("normalized") = false, py::arg("scale") = 1.0, Unlocked());
  m.def(
      "cross_entropy_mean",
      [](const Tensor& losses, const Tensor& labels, int64_t classes, const Optional& weight, int64_t ignore_index) {
        return ops::cross_entropy_mean(losses, labels, or_none(weight), ignore_index, classes);
      },
      py::arg("losses"), py::arg("labels"), py::arg("classes"), py::arg("weight") = py::none(),
      py::arg("ignore_index") = -100, Unlocked());
}

}  // namespace quernel
