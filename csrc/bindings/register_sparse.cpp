#include "bindings/bindings.h"
#include "ops/sparse.h"
#include "runtime/profile.h"

namespace quernel {
namespace {

using Extents = std::pair<int64_t, int64_t>;

ops::Sparse sparse(const Tensor& values, const Tensor& indices, const Tensor& indptr, Extents shape,
                   const Optional& source = std::nullopt) {
  return {values, indices, indptr, shape.first, shape.second, or_none(source)};
}

std::pair<Tensor, Optional> sparse_linear(const Tensor& x, const Tensor& values, const Tensor& indices,
                                          const Tensor& indptr, Extents shape, const Optional& source,
                                          const Optional& bias, const Optional& residual, const std::string& activation,
                                          bool save_pre) {
  const auto [y, pre] = ops::sparse_linear(
      x, sparse(values, indices, indptr, shape, source),
      {or_none(bias), or_none(residual), ops::activation_from_name("sparse_linear", activation), save_pre});
  return {y, pre.defined() ? Optional(pre) : std::nullopt};
}

}  // namespace

void register_sparse(py::module_& m) {
  const auto none = py::none();
  m.def(
      "check_sparse",
      [](const std::string& op, const Tensor& values, const Tensor& indices, const Tensor& indptr, Extents shape) {
        ops::check_sparse(interned(op), sparse(values, indices, indptr, shape));  // a plan keeps the name
      },
      py::arg("op"), py::arg("values"), py::arg("indices"), py::arg("indptr"), py::arg("shape"), Unlocked());
  m.def(
      "transpose_sparse",
      [](const Tensor& values, const Tensor& indices, const Tensor& indptr, Extents shape) {
        return ops::transpose_sparse(sparse(values, indices, indptr, shape));
      },
      py::arg("values"), py::arg("indices"), py::arg("indptr"), py::arg("shape"), Unlocked());
  m.def(
      "spmm",
      [](const Tensor& values, const Tensor& indices, const Tensor& indptr, Extents shape, const Tensor& x,
         const Optional& source) { return ops::spmm(sparse(values, indices, indptr, shape, source), x); },
      py::arg("values"), py::arg("indices"), py::arg("indptr"), py::arg("shape"), py::arg("x"),
      py::arg("source") = none, Unlocked());
  m.def("sparse_linear", &sparse_linear, py::arg("x"), py::arg("values"), py::arg("indices"), py::arg("indptr"),
        py::arg("shape"), py::arg("source") = none, py::arg("bias") = none, py::arg("residual") = none,
        py::arg("activation") = "none", py::arg("save_pre") = false, Unlocked());
  m.def(
      "sparse_grad",
      [](const Tensor& values, const Tensor& indices, const Tensor& indptr, Extents shape, const Tensor& g,
         const Tensor& x,
         bool linear) { return ops::sparse_grad(sparse(values, indices, indptr, shape), g, x, linear); },
      py::arg("values"), py::arg("indices"), py::arg("indptr"), py::arg("shape"), py::arg("g"), py::arg("x"),
      py::arg("linear"), Unlocked());
  m.def(
      "qsparse_linear",
      [](const Tensor& x, const Tensor& values, const Tensor& indices, const Tensor& indptr, Extents shape,
         const Tensor& bias, const Tensor& scale, int32_t zero_point, int32_t lo, int32_t hi, bool out_float) {
        return ops::qsparse_linear(x, sparse(values, indices, indptr, shape),
                                   {bias, scale, zero_point, lo, hi, out_float});
      },
      py::arg("x"), py::arg("values"), py::arg("indices"), py::arg("indptr"), py::arg("shape"), py::arg("bias"),
      py::arg("scale"), py::arg("zero_point"), py::arg("lo"), py::arg("hi"), py::arg("out_float") = false, Unlocked());
}

}  // namespace quernel
