#include "bindings/bindings.h"
#include "core/error.h"
#include "ops/upsample.h"

namespace quernel {
namespace {

using Pair = std::array<int64_t, 2>;
using Scales = std::array<double, 2>;

UpsampleMode mode_of(const std::string& name) {
  if (name == "nearest") return UpsampleMode::kNearest;
  if (name == "nearest-exact") return UpsampleMode::kNearestExact;
  if (name == "linear") return UpsampleMode::kLinear;
  check<ArgumentError>(name == "linear-aligned", "upsample", "unknown mode '", name, "'");
  return UpsampleMode::kLinearAligned;
}

}  // namespace

void register_upsample(py::module_& m) {
  m.def(
      "upsample",
      [](const Tensor& x, const std::string& mode, Pair size, Scales scale) {
        return ops::upsample(x, {mode_of(mode), size, scale});
      },
      py::arg("x"), py::arg("mode"), py::arg("size"), py::arg("scale"), Unlocked(),
      "`scale`: input pixels per output pixel.");
  m.def(
      "upsample_grad",
      [](const Tensor& g, const std::vector<int64_t>& x_shape, const std::string& mode, Pair size, Scales scale) {
        return ops::upsample_grad(g, Shape(x_shape), {mode_of(mode), size, scale});
      },
      py::arg("g"), py::arg("x_shape"), py::arg("mode"), py::arg("size"), py::arg("scale"), Unlocked());
}

}  // namespace quernel
