#include "ops/norm.h"

#include "core/error.h"
#include "ops/common.h"
#include "ops/reduce.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr const char* kOp = "batch_norm";

int64_t rows_of(const Tensor& x) {
  check_floating(kOp, "x", x.dtype());
  check<ShapeError>(x.rank() >= 2, kOp, "x must have at least 2 dimensions (N, ..., C), has shape ", x.shape());
  return x.dim(-1) == 0 ? 0 : x.size() / x.dim(-1);
}

void check_channels(const char* what, const Tensor& t, const Tensor& x) {
  if (!t.defined()) return;
  check<ShapeError>(t.rank() == 1 && t.dim(0) == x.dim(-1), kOp, what, " must have shape (", x.dim(-1), ",), has ",
                    t.shape(), " (x: ", x.shape(), ")");
  check<DTypeError>(t.dtype() == x.dtype(), kOp, what, " is ", name(t.dtype()), ", x is ", name(x.dtype()));
}

int64_t blocks_of(int64_t rows) { return (rows + kNormRows - 1) / kNormRows; }
int64_t tiles_of(int64_t channels) { return (channels + kNormTile - 1) / kNormTile; }

// Blocks of rows times tiles of channels, from estimates per element of x.
Work block_work(const Tensor& x, int64_t rows, double ns_per_element) {
  Work work;
  work.items = blocks_of(rows) * tiles_of(x.dim(-1));
  if (work.items > 0) {
    work.ns_per_item = 10 + ns_per_element * static_cast<double>(x.size()) / static_cast<double>(work.items);
  }
  return work;
}

Work row_work(const Tensor& x, int64_t rows, double ns_per_element) {
  return {rows, 2 + ns_per_element * static_cast<double>(x.dim(-1))};
}

template <class Args>
Args common(const Tensor& x, int64_t rows) {
  Args args;
  args.dtype = x.dtype();
  args.rows = rows;
  args.channels = x.dim(-1);
  return args;
}

}  // namespace

std::pair<Tensor, Tensor> batch_norm_stats(const Tensor& x) {
  const int64_t rows = rows_of(x), channels = x.dim(-1);
  check<ShapeError>(rows > 0 || channels == 0, kOp, "expects at least one value per channel (x: ", x.shape(), ")");
  const Tensor means = Tensor::empty(x.dtype(), {blocks_of(rows), channels}, x.device());
  const Tensor squares = Tensor::empty(x.dtype(), {blocks_of(rows), channels}, x.device());
  const Tensor mean = Tensor::empty(x.dtype(), {channels}, x.device()),
               var = Tensor::empty(x.dtype(), {channels}, x.device());
  launch(kOp, &KernelTable::batch_norm_stats, common<BatchNormStatsArgs>(x, rows), block_work(x, rows, 0.25),
         {read(&BatchNormStatsArgs::x, x), write(&BatchNormStatsArgs::mean, means),
          write(&BatchNormStatsArgs::squares, squares)});
  const Work merge{tiles_of(channels), 2.0 * static_cast<double>(kNormTile * blocks_of(rows))};
  launch(kOp, &KernelTable::batch_norm_merge, common<BatchNormMergeArgs>(x, rows), merge,
         {read(&BatchNormMergeArgs::block_mean, means), read(&BatchNormMergeArgs::block_squares, squares),
          write(&BatchNormMergeArgs::mean, mean), write(&BatchNormMergeArgs::var, var)});
  return {mean, var};
}

Tensor batch_norm(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& weight, const Tensor& bias,
                  double eps) {
  const int64_t rows = rows_of(x);
  check_channels("mean", mean, x);
  check_channels("var", var, x);
  check_channels("weight", weight, x);
  check_channels("bias", bias, x);
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
  BatchNormArgs args = common<BatchNormArgs>(x, rows);
  args.eps = eps;
  launch(kOp, &KernelTable::batch_norm, args, row_work(x, rows, 0.25),
         {read(&BatchNormArgs::x, x), read(&BatchNormArgs::mean, mean), read(&BatchNormArgs::var, var),
          read(&BatchNormArgs::weight, weight), read(&BatchNormArgs::shift, bias), write(&BatchNormArgs::y, y)});
  return y;
}

void batch_norm_update(const Tensor& mean, const Tensor& var, const Tensor& running_mean, const Tensor& running_var,
                       double momentum, int64_t rows) {
  for (const Tensor* t : {&var, &running_mean, &running_var}) {
    check<ShapeError>(t->shape() == mean.shape(), kOp, "statistics of shape ", mean.shape(), " and ", t->shape());
    check<DTypeError>(t->dtype() == mean.dtype(), kOp, "statistics of dtype ", name(mean.dtype()), " and ",
                      name(t->dtype()));
  }
  check_floating(kOp, "mean", mean.dtype());
  BatchNormUpdateArgs args;
  args.dtype = mean.dtype();
  args.momentum = momentum;
  args.rows = rows;
  args.channels = mean.size();
  launch(kOp, &KernelTable::batch_norm_update, args, {1, 0.5 * static_cast<double>(args.channels)},
         {read(&BatchNormUpdateArgs::mean, mean), read(&BatchNormUpdateArgs::var, var),
          update(&BatchNormUpdateArgs::running_mean, running_mean),
          update(&BatchNormUpdateArgs::running_var, running_var)});
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_grad(const Tensor& x, const Tensor& g, const Tensor& mean,
                                                   const Tensor& var, const Tensor& weight, double eps) {
  const int64_t rows = rows_of(x), channels = x.dim(-1);
  check<ShapeError>(g.shape() == x.shape(), kOp, "gradient has shape ", g.shape(), ", x has ", x.shape());
  check<DTypeError>(g.dtype() == x.dtype(), kOp, "gradient is ", name(g.dtype()), ", x is ", name(x.dtype()));
  check_channels("mean", mean, x);
  check_channels("var", var, x);
  check_channels("weight", weight, x);
  const int64_t blocks = blocks_of(rows);
  const Tensor partial_weight = Tensor::empty(x.dtype(), {blocks, channels}, x.device());
  const Tensor partial_bias = Tensor::empty(x.dtype(), {blocks, channels}, x.device());
  BatchNormGradParamsArgs params = common<BatchNormGradParamsArgs>(x, rows);
  params.eps = eps;
  launch(
      kOp, &KernelTable::batch_norm_grad_params, params, block_work(x, rows, 0.4),
      {read(&BatchNormGradParamsArgs::x, x), read(&BatchNormGradParamsArgs::g, g),
       read(&BatchNormGradParamsArgs::mean, mean), read(&BatchNormGradParamsArgs::var, var),
       write(&BatchNormGradParamsArgs::dweight, partial_weight), write(&BatchNormGradParamsArgs::dbias, partial_bias)});
  const Tensor dweight = sum_middle(kOp, partial_weight, 1, blocks, channels);
  const Tensor dbias = sum_middle(kOp, partial_bias, 1, blocks, channels);

  const Tensor dx = Tensor::empty(x.dtype(), x.shape(), x.device());
  BatchNormGradInputArgs args = common<BatchNormGradInputArgs>(x, rows);
  args.eps = eps;
  using A = BatchNormGradInputArgs;
  launch(kOp, &KernelTable::batch_norm_grad_input, args, row_work(x, rows, 0.4),
         {read(&A::x, x), read(&A::g, g), read(&A::mean, mean), read(&A::var, var), read(&A::weight, weight),
          read(&A::dweight, dweight), read(&A::dbias, dbias), write(&A::dx, dx)});
  return {dx, dweight, dbias};
}

}  // namespace quernel::ops
