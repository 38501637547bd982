#include "bindings/bindings.h"
#include "ops/recurrent.h"
#include "runtime/profile.h"

namespace quernel {

void register_recurrent(py::module_& m) {
  m.def(
      "recurrent",
      [](const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh, const Optional& bias_ih,
         const Optional& bias_hh, const Optional& h0, const Optional& c0, const Optional& lengths,
         const std::string& cell, bool reverse, bool save, bool bf16) {
        const auto r =
            ops::recurrent(x, {weight_ih, weight_hh, or_none(bias_ih), or_none(bias_hh)}, {or_none(h0), or_none(c0)},
                           or_none(lengths), {ops::cell_from_name(cell), reverse, bf16}, save);
        return std::tuple(r.y, r.h_n, optional(r.c_n), optional(r.gates), optional(r.cell));
      },
      py::arg("x"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"), py::arg("h0"),
      py::arg("c0"), py::arg("lengths"), py::arg("cell"), py::arg("reverse"), py::arg("save"), py::arg("bf16") = false,
      Unlocked());
  m.def(
      "recurrent_grad",
      [](const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh, const Optional& h0, const Optional& c0,
         const Optional& lengths, const Tensor& y, const Optional& gates, const Optional& cell_t, const Optional& g_y,
         const Optional& g_h, const Optional& g_c, const std::string& cell, bool reverse, bool want_x, bool bf16) {
        const auto d = ops::recurrent_grad({y, {}, {}, or_none(gates), or_none(cell_t)}, x,
                                           {weight_ih, weight_hh, {}, {}}, {or_none(h0), or_none(c0)}, or_none(lengths),
                                           {or_none(g_y), or_none(g_h), or_none(g_c)},
                                           {ops::cell_from_name(cell), reverse, bf16}, want_x);
        return std::tuple(optional(d.x), d.weights.ih, d.weights.hh, d.weights.bias_ih, d.weights.bias_hh, d.initial.h,
                          optional(d.initial.c));
      },
      py::arg("x"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("h0"), py::arg("c0"), py::arg("lengths"),
      py::arg("y"), py::arg("gates"), py::arg("cell_t"), py::arg("g_y"), py::arg("g_h"), py::arg("g_c"),
      py::arg("cell"), py::arg("reverse"), py::arg("want_x"), py::arg("bf16") = false, Unlocked());
  m.def(
      "check_lengths",
      [](const std::string& op, const Tensor& lengths, int64_t least, int64_t most, const std::string& unit) {
        ops::check_lengths(interned(op), lengths, {least, most, interned(unit)});  // a plan keeps the names
      },
      py::arg("op"), py::arg("lengths"), py::arg("least"), py::arg("most"), py::arg("unit"), Unlocked());
}

}  // namespace quernel
