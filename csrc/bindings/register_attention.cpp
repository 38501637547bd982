#include <variant>

#include "bindings/bindings.h"
#include "ops/attention.h"

namespace quernel {
namespace {

using Past = std::variant<int64_t, Tensor>;

ops::AttentionOperands operands_of(const Tensor& q, const Optional& k, const Optional& v, const Optional& mask,
                                   int64_t heads, bool causal, const Past& past, double scale, double dropout) {
  const auto* number = std::get_if<int64_t>(&past);
  return {q,     or_none(k), or_none(v),           or_none(mask),
          heads, causal,     number ? *number : 0, number ? Tensor() : std::get<Tensor>(past),
          scale, dropout};
}

}  // namespace

void register_attention(py::module_& m) {
  m.def(
      "attention",
      [](const Tensor& q, const Optional& k, const Optional& v, const Optional& mask, int64_t heads, bool causal,
         const Past& past, double scale, double dropout, const Generator& generator, bool save) {
        const auto [y, saved] =
            ops::attention(operands_of(q, k, v, mask, heads, causal, past, scale, dropout), generator, save);
        return std::make_tuple(y, optional(saved.lse), optional(saved.drawn));
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("heads"), py::arg("causal"), py::arg("past"),
      py::arg("scale"), py::arg("dropout"), py::arg("generator"), py::arg("save"), Unlocked(),
      "(y, logarithms of the softmax's sums to base 2 or None, where dropout's draws began or None).");
  m.def(
      "attention_grad",
      [](const Tensor& q, const Optional& k, const Optional& v, const Optional& mask, int64_t heads, bool causal,
         const Past& past, double scale, double dropout, const Tensor& y, const Tensor& lse, const Optional& drawn,
         const Tensor& g, bool want_q, bool want_k, bool want_v, bool want_mask) {
        const ops::AttentionGrads grads =
            ops::attention_grad(operands_of(q, k, v, mask, heads, causal, past, scale, dropout), y,
                                {lse, or_none(drawn)}, g, {want_q, want_k, want_v, want_mask});
        return std::make_tuple(optional(grads.q), optional(grads.k), optional(grads.v), optional(grads.mask));
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("heads"), py::arg("causal"), py::arg("past"),
      py::arg("scale"), py::arg("dropout"), py::arg("y"), py::arg("lse"), py::arg("drawn"), py::arg("g"),
      py::arg("want_q"), py::arg("want_k"), py::arg("want_v"), py::arg("want_mask"), Unlocked());
  m.def("append_rows_", &ops::append_rows, py::arg("y"), py::arg("length"), py::arg("x"), Unlocked());
  m.def("length_now", &ops::length_now, py::arg("length"));
}

}  // namespace quernel
