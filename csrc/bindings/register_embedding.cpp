#include "bindings/bindings.h"
#include "ops/embedding.h"

namespace quernel {
namespace {

// Ops that may be named in a message. Plans keep these pointers, so they must be static strings.
constexpr const char* kOps[] = {"getitem", "setitem",     "embedding",      "index_select", "index_add",
                                "gather",  "scatter_add", "take_along_dim", "one_hot"};

ops::IndexUse use_of(const std::string& op, int axis, bool wrap) {
  for (const char* known : kOps) {
    if (op != known) continue;
    const char* unit = op == "embedding" ? "rows" : op == "one_hot" ? "classes" : nullptr;
    return {known, unit, axis, wrap};
  }
  throw py::value_error("unknown op " + op);
}

}  // namespace

// Each function takes the op that an error names, the axis that the index runs along, and whether negative indices
// wrap.
void register_embedding(py::module_& m) {
  using Name = const std::string&;
  m.def(
      "fold_index",
      [](Name op, int axis, bool wrap, const Optional& high, const Tensor& index, int64_t rows) {
        return ops::fold_index(use_of(op, axis, wrap), or_none(high), index, rows);
      },
      py::arg("op"), py::arg("axis"), py::arg("wrap"), py::arg("high"), py::arg("index"), py::arg("rows"), Unlocked());
  m.def(
      "take_rows",
      [](Name op, int axis, bool wrap, const Tensor& x, const Tensor& index) {
        return ops::take_rows(use_of(op, axis, wrap), x, index);
      },
      py::arg("op"), py::arg("axis"), py::arg("wrap"), py::arg("x"), py::arg("index"), Unlocked());
  m.def(
      "add_rows",
      [](Name op, int axis, bool wrap, const Optional& base, const Tensor& index, const Tensor& src, int64_t rows,
         int64_t skip) { return ops::add_rows(use_of(op, axis, wrap), or_none(base), index, src, rows, skip); },
      py::arg("op"), py::arg("axis"), py::arg("wrap"), py::arg("base"), py::arg("index"), py::arg("src"),
      py::arg("rows"), py::arg("skip") = -1, Unlocked());
  m.def(
      "put_rows_",
      [](Name op, int axis, bool wrap, const Tensor& dst, const Tensor& index, const Tensor& src) {
        ops::put_rows(use_of(op, axis, wrap), dst, index, src);
      },
      py::arg("op"), py::arg("axis"), py::arg("wrap"), py::arg("dst"), py::arg("index"), py::arg("src"), Unlocked());
  m.def(
      "gather",
      [](Name op, int axis, bool wrap, const Tensor& x, const Tensor& index, int64_t n) {
        return ops::gather(use_of(op, axis, wrap), x, index, n);
      },
      py::arg("op"), py::arg("axis"), py::arg("wrap"), py::arg("x"), py::arg("index"), py::arg("n"), Unlocked());
  m.def(
      "scatter_add",
      [](Name op, int axis, bool wrap, const Optional& base, const Tensor& index, const Tensor& src, int64_t rows) {
        return ops::scatter_add(use_of(op, axis, wrap), or_none(base), index, src, rows);
      },
      py::arg("op"), py::arg("axis"), py::arg("wrap"), py::arg("base"), py::arg("index"), py::arg("src"),
      py::arg("rows"), Unlocked());
  m.def(
      "iota",
      [](const std::string& dtype, int64_t size, double start, double step, int64_t whole_start, int64_t whole_step,
         const std::optional<std::string>& device) {
        return ops::iota(dtype_from_name(dtype.c_str()), size, start, step, whole_start, whole_step,
                         or_default(device));
      },
      py::arg("dtype"), py::arg("size"), py::arg("start"), py::arg("step"), py::arg("whole_start"),
      py::arg("whole_step"), py::arg("device") = py::none(), Unlocked());
}

}  // namespace quernel
