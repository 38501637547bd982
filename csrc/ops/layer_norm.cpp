#include "ops/layer_norm.h"

#include "core/error.h"
#include "ops/common.h"
#include "ops/reduce.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

int64_t rows_of(const char* op, const Tensor& x, int64_t columns) {
  check_floating(op, "x", x.dtype());
  check<ShapeError>(columns >= 0 && (columns == 0 ? x.size() == 0 : x.size() % columns == 0), op, "x of shape ",
                    x.shape(), " has no rows of ", columns);
  return columns == 0 ? 0 : x.size() / columns;
}

void check_param(const char* op, const char* what, const Tensor& t, const Tensor& x, int64_t size) {
  if (!t.defined()) return;
  check<ShapeError>(t.size() == size, op, what, " must have ", size, " elements, has shape ", t.shape(),
                    " (x: ", x.shape(), ")");
  check<DTypeError>(t.dtype() == x.dtype(), op, what, " is ", name(t.dtype()), ", x is ", name(x.dtype()));
}

Tensor maybe(bool wanted, const Tensor& like, const Shape& shape) {
  return wanted ? Tensor::empty(like.dtype(), shape, like.device()) : Tensor();
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& x, int64_t columns, const Tensor& weight,
                                              const Tensor& bias, double eps, bool rms) {
  const char* op = rms ? "rms_norm" : "layer_norm";
  LayerNormArgs args;
  args.rows = rows_of(op, x, columns);
  args.cols = columns;
  args.dtype = x.dtype();
  args.rms = rms;
  args.eps = eps;
  check_param(op, "weight", weight, x, columns);
  check_param(op, "bias", bias, x, columns);
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
  const Tensor mean = maybe(!rms, x, {args.rows}), rstd = Tensor::empty(x.dtype(), {args.rows}, x.device());
  using A = LayerNormArgs;
  launch(op, &KernelTable::layer_norm, args, {args.rows, 15 + 0.2 * static_cast<double>(columns)},
         {read(&A::x, x), read(&A::weight, weight), read(&A::bias, bias), write(&A::y, y), write(&A::mean, mean),
          write(&A::rstd, rstd)});
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_grad(const Tensor& x, const Tensor& g, int64_t columns,
                                                   const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                                                   bool rms, bool want_weight, bool want_bias) {
  const char* op = rms ? "rms_norm_grad" : "layer_norm_grad";
  LayerNormGradArgs args;
  args.rows = rows_of(op, x, columns);
  args.cols = columns;
  args.dtype = x.dtype();
  args.rms = rms;
  check<ShapeError>(g.shape() == x.shape(), op, "gradient has shape ", g.shape(), ", x has ", x.shape());
  check<DTypeError>(g.dtype() == x.dtype(), op, "gradient is ", name(g.dtype()), ", x is ", name(x.dtype()));
  check_param(op, "weight", weight, x, columns);
  check_param(op, "rstd", rstd, x, args.rows);
  check<ShapeError>(rstd.defined() && mean.defined() != rms, op, "needs the mean and rstd of the forward pass");
  check_param(op, "mean", mean, x, args.rows);
  const int64_t blocks = (args.rows + kLayerNormRows - 1) / kLayerNormRows;
  const Tensor dx = Tensor::empty(x.dtype(), x.shape(), x.device());
  const Tensor dweight = maybe(want_weight, x, {blocks, columns});
  const Tensor dbias = maybe(want_bias, x, {blocks, columns});
  using A = LayerNormGradArgs;
  launch(op, &KernelTable::layer_norm_grad, args,
         {blocks, static_cast<double>(kLayerNormRows) * (20 + 0.5 * static_cast<double>(columns))},
         {read(&A::x, x), read(&A::g, g), read(&A::weight, weight), read(&A::mean, mean), read(&A::rstd, rstd),
          write(&A::dx, dx), write(&A::dweight, dweight), write(&A::dbias, dbias)});
  const auto total = [&](const Tensor& parts) {
    return parts.defined() ? sum_middle(op, parts, 1, blocks, columns) : parts;
  };
  return {dx, total(dweight), total(dbias)};
}

}  // namespace quernel::ops
