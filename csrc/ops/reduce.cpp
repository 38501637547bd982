#include "ops/reduce.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

// Fixed lengths, long enough that a second pass costs nothing, short enough to occupy threads and to bound the error.
constexpr int64_t kContiguousBlock = 8192;
constexpr int64_t kColumnBlock = 512;

// A tensor as (outer, reduced, inner), and the shape of the result.
struct View {
  Tensor x;
  int64_t outer = 1, reduced = 1, inner = 1;
  Shape kept;
};

View view_of(const char* op, const Tensor& x, const Axes& axes) {
  const int rank = x.rank();
  check<UnsupportedError>(x.dtype() != DType::kBFloat16, op, "has no bfloat16 kernel; cast to float32 first");
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
  const bool wide = kind == ReduceOp::kSum && !is_floating(v.x.dtype());
  const DType result = wide ? DType::kInt64 : v.x.dtype();
  if (v.kept.volume() == 0) return Tensor::empty(result, v.kept);
  if (v.reduced == 0) return full(v.kept, divisor == 0 ? std::numeric_limits<double>::quiet_NaN() : 0, result);
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
    const Tensor y = Tensor::empty(result, blocks == 1 ? v.kept : Shape{v.outer, blocks, v.inner});
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

}  // namespace

Tensor sum(const Tensor& x, const Axes& axes) { return reduce("sum", ReduceOp::kSum, view_of("sum", x, axes), 1); }

Tensor mean(const Tensor& x, const Axes& axes) {
  check<DTypeError>(is_floating(x.dtype()), "mean", "expects a floating-point tensor, x is ", name(x.dtype()),
                    "; cast it first");
  View v = view_of("mean", x, axes);
  return reduce("mean", ReduceOp::kSum, v, static_cast<double>(v.reduced));
}

Tensor max(const Tensor& x, const Axes& axes) {
  View v = view_of("max", x, axes);
  check<ShapeError>(v.reduced > 0 || v.kept.volume() == 0, "max", "of no elements is undefined (x: ", x.shape(), ")");
  return reduce("max", ReduceOp::kMax, v, 1);
}

Tensor sum_middle(const char* op, const Tensor& x, int64_t outer, int64_t reduced, int64_t inner) {
  return reduce(op, ReduceOp::kSum, {x, outer, reduced, inner, outer == 1 ? Shape{inner} : Shape{outer, inner}}, 1);
}

}  // namespace quernel::ops
