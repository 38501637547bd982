#include "bindings/bindings.h"
#include "ops/attention.h"

namespace quernel {
namespace {

Optional optional(const Tensor& t) { return t.defined() ? Optional(t) : std::nullopt; }

}  // namespace

void register_attention(py::module_& m) {
  m.def(
      "attention",
      [](const Tensor& q, const Optional& k, const Optional& v, const Optional& mask, int64_t heads, bool causal,
         int64_t past, double scale, bool want_lse) {
        const auto [y, lse] =
            ops::attention({q, or_none(k), or_none(v), or_none(mask), heads, causal, past, scale}, want_lse);
        return std::make_pair(y, optional(lse));
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("heads"), py::arg("causal"), py::arg("past"),
      py::arg("scale"), py::arg("want_lse"), Unlocked(), "(y, logarithms of the softmax's sums or None).");
  m.def(
      "attention_grad",
      [](const Tensor& q, const Optional& k, const Optional& v, const Optional& mask, int64_t heads, bool causal,
         int64_t past, double scale, const Tensor& y, const Tensor& lse, const Tensor& g, bool want_q, bool want_k,
         bool want_v) {
        const auto [dq, dk, dv] = ops::attention_grad(
            {q, or_none(k), or_none(v), or_none(mask), heads, causal, past, scale}, y, lse, g, want_q, want_k, want_v);
        return std::make_tuple(optional(dq), optional(dk), optional(dv));
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("heads"), py::arg("causal"), py::arg("past"),
      py::arg("scale"), py::arg("y"), py::arg("lse"), py::arg("g"), py::arg("want_q"), py::arg("want_k"),
      py::arg("want_v"), Unlocked());
}

}  // namespace quernel
