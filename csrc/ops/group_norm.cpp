#include "ops/group_norm.h"

#include "core/error.h"
#include "ops/common.h"
#include "ops/reduce.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr const char* kOp = "group_norm";

GroupNormSize size_of(const Tensor& x, int64_t groups) {
  check_floating(kOp, "x", x.dtype());
  check<ShapeError>(x.rank() >= 2, kOp, "x must have at least 2 dimensions (N, ..., C), has shape ", x.shape());
  GroupNormSize size;
  size.samples = x.dim(0), size.channels = x.dim(-1), size.groups = groups;
  size.rows = x.size() == 0 ? 0 : x.size() / (size.samples * size.channels);
  check<ArgumentError>(groups >= 1 && size.channels % groups == 0, kOp, groups, " groups do not divide the ",
                       size.channels, " channels (x: ", x.shape(), ")");
  return size;
}

// The size, from statistics of shape (N, groups).
GroupNormSize size_of(const Tensor& x, const Tensor& mean, const Tensor& var) {
  check<ShapeError>(mean.rank() == 2 && mean.shape() == var.shape() && x.rank() >= 2 && mean.dim(0) == x.dim(0), kOp,
                    "statistics must have shape (N, groups), have ", mean.shape(), " and ", var.shape(),
                    " (x: ", x.shape(), ")");
  check<DTypeError>(mean.dtype() == x.dtype() && var.dtype() == x.dtype(), kOp, "statistics are ", name(mean.dtype()),
                    " and ", name(var.dtype()), ", x is ", name(x.dtype()));
  return size_of(x, mean.dim(1));
}

void check_param(const char* what, const Tensor& t, const Tensor& x) {
  if (!t.defined()) return;
  check<ShapeError>(t.rank() == 1 && t.dim(0) == x.dim(-1), kOp, what, " must have shape (", x.dim(-1), ",), has ",
                    t.shape(), " (x: ", x.shape(), ")");
  check<DTypeError>(t.dtype() == x.dtype(), kOp, what, " is ", name(t.dtype()), ", x is ", name(x.dtype()));
}

int64_t blocks_of(const GroupNormSize& s) { return (s.rows + kGroupNormRows - 1) / kGroupNormRows; }

// Items of the kernels that sum over blocks of rows.
Work block_work(const GroupNormSize& s, double ns_per_element) {
  Work work;
  work.items = s.samples * blocks_of(s) * ((s.channels + kGroupNormTile - 1) / kGroupNormTile);
  const double elements = static_cast<double>(s.samples * s.rows * s.channels);
  if (work.items > 0) work.ns_per_item = 10 + ns_per_element * elements / static_cast<double>(work.items);
  return work;
}

Work row_work(const GroupNormSize& s, double ns_per_element) {
  return {s.samples * s.rows, 2 + ns_per_element * static_cast<double>(s.channels)};
}

template <class Args>
Args common(const Tensor& x, const GroupNormSize& size) {
  Args args;
  args.dtype = x.dtype();
  args.size = size;
  return args;
}

}  // namespace

std::pair<Tensor, Tensor> group_norm_stats(const Tensor& x, int64_t groups) {
  const GroupNormSize s = size_of(x, groups);
  check<ShapeError>(s.rows > 0 || x.size() == 0, kOp, "expects at least one value per group (x: ", x.shape(), ")");
  const Tensor means = Tensor::empty(x.dtype(), {s.samples, blocks_of(s), s.channels}, x.device());
  const Tensor squares = Tensor::empty(x.dtype(), means.shape(), x.device());
  const Tensor mean = Tensor::empty(x.dtype(), {s.samples, groups}, x.device()),
               var = Tensor::empty(x.dtype(), mean.shape(), x.device());
  using S = GroupNormStatsArgs;
  launch(kOp, &KernelTable::group_norm_stats, common<S>(x, s), block_work(s, 0.25),
         {read(&S::x, x), write(&S::mean, means), write(&S::squares, squares)});
  using M = GroupNormMergeArgs;
  const Work merge{s.samples, 20 + 2.0 * static_cast<double>(blocks_of(s) * s.channels)};
  launch(kOp, &KernelTable::group_norm_merge, common<M>(x, s), merge,
         {read(&M::block_mean, means), read(&M::block_squares, squares), write(&M::mean, mean), write(&M::var, var)});
  return {mean, var};
}

Tensor group_norm(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& weight, const Tensor& bias,
                  double eps) {
  const GroupNormSize s = size_of(x, mean, var);
  check_param("weight", weight, x);
  check_param("bias", bias, x);
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
  using A = GroupNormArgs;
  A args = common<A>(x, s);
  args.eps = eps;
  launch(kOp, &KernelTable::group_norm, args, row_work(s, 0.25),
         {read(&A::x, x), read(&A::mean, mean), read(&A::var, var), read(&A::weight, weight), read(&A::bias, bias),
          write(&A::y, y)});
  return y;
}

std::tuple<Tensor, Tensor, Tensor> group_norm_grad(const Tensor& x, const Tensor& g, const Tensor& mean,
                                                   const Tensor& var, const Tensor& weight, double eps) {
  constexpr const char* kGrad = "group_norm_grad";
  const GroupNormSize s = size_of(x, mean, var);
  check<ShapeError>(g.shape() == x.shape(), kGrad, "gradient has shape ", g.shape(), ", x has ", x.shape());
  check<DTypeError>(g.dtype() == x.dtype(), kGrad, "gradient is ", name(g.dtype()), ", x is ", name(x.dtype()));
  check_param("weight", weight, x);
  const Tensor dots = Tensor::empty(x.dtype(), {s.samples, blocks_of(s), s.channels}, x.device());
  const Tensor sums = Tensor::empty(x.dtype(), dots.shape(), x.device());
  using P = GroupNormGradSumsArgs;
  P parts = common<P>(x, s);
  parts.eps = eps;
  launch(kGrad, &KernelTable::group_norm_grad_sums, parts, block_work(s, 0.4),
         {read(&P::x, x), read(&P::g, g), read(&P::mean, mean), read(&P::var, var), write(&P::dot, dots),
          write(&P::sum, sums)});
  const Tensor dot = sum_middle(kGrad, dots, s.samples, blocks_of(s), s.channels);
  const Tensor sum = sum_middle(kGrad, sums, s.samples, blocks_of(s), s.channels);

  const Tensor dx = Tensor::empty(x.dtype(), x.shape(), x.device());
  using A = GroupNormGradArgs;
  A args = common<A>(x, s);
  args.eps = eps;
  launch(kGrad, &KernelTable::group_norm_grad, args, row_work(s, 0.4),
         {read(&A::x, x), read(&A::g, g), read(&A::mean, mean), read(&A::var, var), read(&A::weight, weight),
          read(&A::dot, dot), read(&A::sum, sum), write(&A::dx, dx)});
  return {dx, sum_middle(kGrad, dot, 1, s.samples, s.channels), sum_middle(kGrad, sum, 1, s.samples, s.channels)};
}

}  // namespace quernel::ops
