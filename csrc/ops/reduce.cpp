#include "ops/reduce.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/args/mlp.h"
#include "ops/common.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

// Fixed lengths, long enough that a second pass costs nothing, short enough to occupy threads and to bound the error.
constexpr int64_t kContiguousBlock = 8192;
constexpr int64_t kColumnBlock = 512;
static_assert(kColumnBlock == kGradPart);  // a bias's gradient has the same bits in both

// A tensor as (outer, reduced, inner), and the shape of the result.
struct View {
  Tensor x;
  int64_t outer = 1, reduced = 1, inner = 1;
  Shape kept;
};

View view_of(const char* op, const Tensor& x, const Axes& axes) {
  const int rank = x.rank();
  check_not_half(op, x.dtype());
  unsigned reduced = 0;
  for (const int64_t axis : axes) {
    const int64_t a = axis < 0 ? axis + rank : axis;
    check<ShapeError>(a >= 0 && a < rank, op, "axis ", axis, " is out of range for rank ", rank, " (x: ", x.shape(),
                      ")");
    check<ShapeError>(!(reduced >> a & 1), op, "axis ", axis, " appears twice");
    reduced |= 1u << a;
  }
  View view{x, 1, 1, 1, {}};
  std::vector<int64_t> kept_axes, reduced_axes, kept;
  int state = 0;  // outer, reduced, inner; back again means that the reduced axes are not neighbours
  bool scattered = false;
  for (int d = 0; d < rank; ++d) {
    const int64_t n = x.dim(d);
    const bool is_reduced = reduced >> d & 1;
    (is_reduced ? reduced_axes : kept_axes).push_back(d);
    if (!is_reduced) kept.push_back(n);
    if (n == 1) continue;
    if (is_reduced) {
      scattered |= state == 2;
      state = 1;
      view.reduced *= n;
    } else {
      state = state == 0 ? 0 : 2;
      (state == 0 ? view.outer : view.inner) *= n;
    }
  }
  view.kept = Shape(kept);
  if (scattered) {
    kept_axes.insert(kept_axes.end(), reduced_axes.begin(), reduced_axes.end());
    view.x = transpose(x, kept_axes);
    view.outer = view.kept.volume();
    view.inner = 1;
  }
  return view;
}

Tensor reduce(const char* op, ReduceOp kind, View v, double divisor) {
  const bool wide = kind != ReduceOp::kMax && !is_floating(v.x.dtype());
  const DType result = wide ? DType::kInt64 : v.x.dtype();
  if (v.kept.volume() == 0) return Tensor::empty(result, v.kept, v.x.device());
  if (v.reduced == 0) {
    const double nothing = divisor == 0 ? std::numeric_limits<double>::quiet_NaN() : kind == ReduceOp::kProd ? 1 : 0;
    return full(v.kept, nothing, result, v.x.device());
  }
  for (;;) {
    ReduceArgs args;
    args.op = kind;
    args.dtype = v.x.dtype();
    args.outer = v.outer;
    args.reduced = v.reduced;
    args.inner = v.inner;
    args.block = v.inner == 1 ? kContiguousBlock : kColumnBlock;
    const int64_t blocks = (v.reduced + args.block - 1) / args.block;
    args.divisor = blocks == 1 ? divisor : 1;
    const Tensor y = Tensor::empty(result, blocks == 1 ? v.kept : Shape{v.outer, blocks, v.inner}, v.x.device());
    Work work;
    work.items = v.outer * blocks * ((v.inner + kReduceTile - 1) / kReduceTile);
    const double elements = static_cast<double>(v.outer) * static_cast<double>(v.reduced * v.inner);
    const double ns = is_floating(v.x.dtype()) ? static_cast<double>(itemsize(v.x.dtype())) / 40 : 0.3;
    work.ns_per_item = 5 + ns * elements / static_cast<double>(work.items);
    launch(op, &KernelTable::reduce, args, work, {read(&ReduceArgs::x, v.x), write(&ReduceArgs::y, y)});
    if (blocks == 1) return y;
    v.x = y;
    v.reduced = blocks;
  }
}

// x as (outer, axis, inner); of a scalar (1, 1, 1).
View view_of_axis(const char* op, const Tensor& x, int64_t axis) {
  return view_of(op, x, x.rank() == 0 && (axis == 0 || axis == -1) ? Axes{} : Axes{axis});
}

int64_t column_tiles(int64_t inner) { return (inner + kReduceTile - 1) / kReduceTile; }

}  // namespace

Tensor sum(const Tensor& x, const Axes& axes) { return reduce("sum", ReduceOp::kSum, view_of("sum", x, axes), 1); }

Tensor mean(const Tensor& x, const Axes& axes) {
  check<DTypeError>(is_floating(x.dtype()), "mean", "expects a floating-point tensor, x is ", name(x.dtype()),
                    "; cast it first");
  View v = view_of("mean", x, axes);
  return reduce("mean", ReduceOp::kSum, v, static_cast<double>(v.reduced));
}

Tensor prod(const Tensor& x, const Axes& axes) { return reduce("prod", ReduceOp::kProd, view_of("prod", x, axes), 1); }

Tensor max(const Tensor& x, const Axes& axes) {
  View v = view_of("max", x, axes);
  check<ShapeError>(v.reduced > 0 || v.kept.volume() == 0, "max", "of no elements is undefined (x: ", x.shape(), ")");
  return reduce("max", ReduceOp::kMax, v, 1);
}

Tensor cumsum(const Tensor& x, int64_t axis, bool reverse) {
  const View v = view_of_axis("cumsum", x, axis);
  const Tensor y = Tensor::empty(is_floating(x.dtype()) ? x.dtype() : DType::kInt64, x.shape(), x.device());
  if (x.size() == 0) return y;
  CumsumArgs args;
  args.dtype = x.dtype();
  args.reverse = reverse;
  args.outer = v.outer;
  args.length = v.reduced;
  args.inner = v.inner;
  const int64_t tiles = column_tiles(v.inner);
  const double elements = static_cast<double>(v.reduced * v.inner) / static_cast<double>(tiles);
  launch("cumsum", &KernelTable::cumsum, args, {v.outer * tiles, 5 + (v.inner == 1 ? 1.0 : 0.2) * elements},
         {read(&CumsumArgs::x, x), write(&CumsumArgs::y, y)});
  return y;
}

Tensor arg_reduce(const Tensor& x, int64_t axis, bool smallest) {
  const char* op = smallest ? "argmin" : "argmax";
  const View v = view_of_axis(op, x, axis);
  const Tensor y = Tensor::empty(DType::kInt64, v.kept, x.device());
  if (y.size() == 0) return y;
  check<ShapeError>(v.reduced > 0, op, "of no elements is undefined (x: ", x.shape(), ")");
  ArgReduceArgs args;
  args.dtype = x.dtype();
  args.smallest = smallest;
  args.outer = v.outer;
  args.reduced = v.reduced;
  args.inner = v.inner;
  const int64_t tiles = column_tiles(v.inner);
  const double elements = static_cast<double>(v.reduced * v.inner) / static_cast<double>(tiles);
  launch(op, &KernelTable::arg_reduce, args, {v.outer * tiles, 10 + (v.inner == 1 ? 0.15 : 0.4) * elements},
         {read(&ArgReduceArgs::x, x), write(&ArgReduceArgs::y, y)});
  return y;
}

std::pair<Tensor, Tensor> topk(const Tensor& x, int64_t k, bool largest) {
  check_not_half("topk", x.dtype());
  check<ShapeError>(x.rank() >= 1, "topk", "expects at least one dimension, x is a scalar");
  const int64_t cols = x.dim(-1);
  check<ArgumentError>(k >= 0 && k <= cols, "topk", "k is ", k, ", x has ", cols,
                       " elements along the dimension (x: ", x.shape(), ")");
  check<UnsupportedError>(cols < int64_t{1} << 32, "topk", "takes rows of less than 2^32 elements, got ", cols);
  std::vector<int64_t> sizes;
  for (int d = 0; d < x.rank(); ++d) sizes.push_back(d + 1 < x.rank() ? x.dim(d) : k);
  const Shape shape(sizes);
  const Tensor values = Tensor::empty(x.dtype(), shape, x.device()),
               indices = Tensor::empty(DType::kInt64, shape, x.device());
  if (values.size() == 0) return {values, indices};
  TopkArgs args;
  args.dtype = x.dtype();
  args.largest = largest;
  args.rows = values.size() / k;
  args.cols = cols;
  args.k = k;
  const double sorting = static_cast<double>(k) * std::log2(static_cast<double>(k) + 1);
  launch("topk", &KernelTable::topk, args, {args.rows, 10 + 1.5 * static_cast<double>(cols) + 5 * sorting},
         {read(&TopkArgs::x, x), write(&TopkArgs::values, values), write(&TopkArgs::indices, indices)});
  return {values, indices};
}

Tensor topk_grad(const Tensor& g, const Tensor& indices, int64_t cols) {
  check_floating("topk", "the gradient", g.dtype());
  check<ShapeError>(g.shape() == indices.shape() && g.rank() >= 1, "topk", "the gradient has shape ", g.shape(),
                    ", the indices ", indices.shape());
  std::vector<int64_t> sizes;
  for (int d = 0; d < g.rank(); ++d) sizes.push_back(d + 1 < g.rank() ? g.dim(d) : cols);
  const Tensor y = Tensor::empty(g.dtype(), Shape(sizes), g.device());
  TopkGradArgs args;
  args.dtype = g.dtype();
  args.cols = cols;
  args.k = g.dim(-1);
  args.rows = cols == 0 ? 0 : y.size() / cols;
  launch("topk", &KernelTable::topk_grad, args,
         {args.rows, 5 + 0.1 * static_cast<double>(cols) + static_cast<double>(args.k)},
         {read(&TopkGradArgs::g, g), read(&TopkGradArgs::indices, indices), write(&TopkGradArgs::y, y)});
  return y;
}

Tensor sum_middle(const char* op, const Tensor& x, int64_t outer, int64_t reduced, int64_t inner) {
  return reduce(op, ReduceOp::kSum, {x, outer, reduced, inner, outer == 1 ? Shape{inner} : Shape{outer, inner}}, 1);
}

}  // namespace quernel::ops
