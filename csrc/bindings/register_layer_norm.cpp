#include "bindings/bindings.h"
#include "ops/layer_norm.h"

namespace quernel {

void register_layer_norm(py::module_& m) {
  m.def(
      "layer_norm",
      [](const Tensor& x, int64_t columns, const Optional& weight, const Optional& bias, double eps, bool rms) {
        const auto [y, mean, rstd] = ops::layer_norm(x, columns, or_none(weight), or_none(bias), eps, rms);
        return std::make_tuple(y, optional(mean), rstd);
      },
      py::arg("x"), py::arg("columns"), py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("rms"), Unlocked(),
      "(y, mean or None, rstd).");
  m.def(
      "layer_norm_grad",
      [](const Tensor& x, const Tensor& g, int64_t columns, const Optional& weight, const Optional& mean,
         const Tensor& rstd, bool rms, bool want_weight, bool want_bias) {
        const auto [dx, dweight, dbias] =
            ops::layer_norm_grad(x, g, columns, or_none(weight), or_none(mean), rstd, rms, want_weight, want_bias);
        return std::make_tuple(dx, optional(dweight), optional(dbias));
      },
      py::arg("x"), py::arg("g"), py::arg("columns"), py::arg("weight"), py::arg("mean"), py::arg("rstd"),
      py::arg("rms"), py::arg("want_weight"), py::arg("want_bias"), Unlocked());
}

}  // namespace quernel
