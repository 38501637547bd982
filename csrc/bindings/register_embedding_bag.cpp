#include "bindings/bindings.h"
#include "ops/embedding_bag.h"
#include "ops/grad.h"

namespace quernel {
namespace {

// How Python names lookups: (index, offsets, weights, length, skip).
using Described = std::tuple<Tensor, Optional, Optional, int64_t, int64_t>;

// `op` is kept by plans, so it must be a static string.
ops::Lookups lookups_of(const char* op, const Described& described) {
  const auto& [index, offsets, weights, length, skip] = described;
  return {op, index, or_none(offsets), or_none(weights), length, skip};
}

constexpr const char* kBag = "embedding_bag";

}  // namespace

void register_embedding_bag(py::module_& m) {
  m.def(
      "check_offsets",
      [](const Tensor& offsets, int64_t n, bool closed) { ops::check_offsets(kBag, offsets, n, closed); },
      py::arg("offsets"), py::arg("n"), py::arg("closed"), Unlocked());
  m.def(
      "embedding_bag",
      [](const Described& lookups, const Tensor& x, const std::string& mode, int64_t bags) {
        const auto r = ops::embedding_bag(lookups_of(kBag, lookups), x, ops::bag_mode_from_name(mode), bags);
        return std::tuple(r.y, optional(r.inverse), optional(r.chosen));
      },
      py::arg("lookups"), py::arg("x"), py::arg("mode"), py::arg("bags"), Unlocked());
  m.def(
      "bag_sum_grad",
      [](const Described& lookups, const Tensor& g, int64_t rows) {
        return ops::bag_sum_grad(lookups_of(kBag, lookups), g, rows);
      },
      py::arg("lookups"), py::arg("g"), py::arg("rows"), Unlocked());
  m.def(
      "bag_weights_grad",
      [](const Described& lookups, const Tensor& g, const Tensor& x) {
        return ops::bag_weights_grad(lookups_of(kBag, lookups), g, x);
      },
      py::arg("lookups"), py::arg("g"), py::arg("x"), Unlocked());
  m.def(
      "accumulate_row_grad_",
      [](const Tensor& param, const Described& lookups, const Tensor& g) {
        ops::accumulate_row_grad(param, g, lookups_of("backward", lookups));
      },
      py::arg("param"), py::arg("lookups"), py::arg("g"), Unlocked(),
      "Stores the first gradient of a table by rows, adds later ones.");
}

}  // namespace quernel
