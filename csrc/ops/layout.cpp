#include "ops/layout.h"

#include <algorithm>

#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/strided.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

// A place in a contiguous tensor: offset and strides in elements.
struct View {
  int64_t offset = 0;
  Strides strides{};
};

void swap_dims(StridedCopyArgs& args, int a, int b) {
  std::swap(args.shape.dims[a], args.shape.dims[b]);
  std::swap(args.src_strides[a], args.src_strides[b]);
  std::swap(args.dst_strides[a], args.dst_strides[b]);
}

// Where src is contiguous in another dimension than dst, and both are long enough: walk the two in tiles.
void choose_tiles(StridedCopyArgs& args) {
  constexpr int64_t kShortest = 2;
  const int last = args.shape.rank - 1;
  if (args.dst_strides[last] != 1 || args.src_strides[last] <= 1 || args.shape.dims[last] < kShortest) return;
  for (int d = last - 1; d >= 0; --d) {
    if (args.src_strides[d] == 1 && args.shape.dims[d] >= kShortest) {
      for (int e = d; e < last - 1; ++e) swap_dims(args, e, e + 1);
      args.tiled = true;
      return;
    }
  }
}

void launch_copy(const char* op, const Shape& shape, const Tensor& src, const View& from, const Operand& dst,
                 const View& to) {
  StridedCopyArgs args;
  args.itemsize = static_cast<int32_t>(itemsize(src.dtype()));
  args.src_offset = from.offset;
  args.dst_offset = to.offset;
  std::copy_n(from.strides.begin(), kMaxRank, args.src_strides);
  std::copy_n(to.strides.begin(), kMaxRank, args.dst_strides);
  args.shape = collapse(shape, {args.src_strides, args.dst_strides});
  if (shape.volume() == 0) return;
  choose_tiles(args);

  const int last = args.shape.rank - 1;
  const int64_t inner = args.shape.dims[last];
  Work work;
  if (args.tiled) {
    const auto tiles = [](int64_t n) { return (n + kTransposeTile - 1) / kTransposeTile; };
    const int64_t columns = args.shape.dims[last - 1];
    work.items = args.shape.size / (inner * columns) * tiles(inner) * tiles(columns);
    work.ns_per_item = 0.5 * static_cast<double>(args.shape.size) / static_cast<double>(work.items);
  } else {
    const bool runs = args.dst_strides[last] == 1 && args.src_strides[last] <= 1 && args.src_strides[last] >= 0;
    const double ns = (runs ? args.itemsize / 16.0 : 0.4) + 4.0 / static_cast<double>(inner);
    work.items = (args.shape.size + kElementBlock - 1) / kElementBlock;
    work.ns_per_item = ns * static_cast<double>(kElementBlock);
  }
  launch(op, &KernelTable::strided_copy, args, work, {read(&StridedCopyArgs::src, src), dst});
}

View whole(const Shape& shape) { return {0, contiguous_strides(shape)}; }

// The view of x that a slice selects.
View sliced(const char* op, const Tensor& x, const Slice& s) {
  const auto rank = static_cast<size_t>(x.rank());
  check<ShapeError>(s.starts.size() == rank && s.steps.size() == rank && s.sizes.size() == rank, op,
                    "expects a start, step and size per dimension, got ", s.starts.size(), ", ", s.steps.size(),
                    " and ", s.sizes.size(), " for rank ", rank, " (x: ", x.shape(), ")");
  const Strides own = contiguous_strides(x.shape());
  View view;
  for (int d = 0; d < x.rank(); ++d) {
    const int64_t start = s.starts[d], step = s.steps[d], size = s.sizes[d], n = x.dim(d);
    check<ShapeError>(size >= 0, op, "negative size ", size, " in dimension ", d);
    if (size == 0) continue;
    int64_t last;
    const bool fits = !__builtin_mul_overflow(size - 1, step, &last) && !__builtin_add_overflow(last, start, &last);
    check<ShapeError>(fits && std::min(start, last) >= 0 && std::max(start, last) < n, op, "elements ", start, " to ",
                      fits ? last : step, " by ", step, " exceed dimension ", d, " of size ", n, " (x: ", x.shape(),
                      ")");
    view.offset += start * own[d];
    view.strides[d] = step * own[d];
  }
  return view;
}

}  // namespace

Tensor transpose(const Tensor& x, const std::vector<int64_t>& axes) {
  const int rank = x.rank();
  check<ShapeError>(static_cast<int>(axes.size()) == rank, "transpose", "got ", axes.size(), " axes for rank ", rank,
                    " (x: ", x.shape(), ")");
  const Strides own = contiguous_strides(x.shape());
  View from;
  std::vector<int64_t> dims(axes.size());
  unsigned seen = 0;
  for (size_t d = 0; d < axes.size(); ++d) {
    const int64_t axis = axes[d] < 0 ? axes[d] + rank : axes[d];
    check<ShapeError>(axis >= 0 && axis < rank && !(seen >> axis & 1), "transpose", "axes must be a permutation of ",
                      rank, " dimensions; axis ", axes[d], " is repeated or out of range");
    seen |= 1u << axis;
    dims[d] = x.dim(static_cast<int>(axis));
    from.strides[d] = own[axis];
  }
  const Shape shape(dims);
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  launch_copy("transpose", shape, x, from, write(&StridedCopyArgs::dst, y), whole(shape));
  return y;
}

Tensor slice(const Tensor& x, const Slice& s) {
  const View from = sliced("slice", x, s);
  const Shape shape(s.sizes);
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  launch_copy("slice", shape, x, from, write(&StridedCopyArgs::dst, y), whole(shape));
  return y;
}

void assign_slice(const Tensor& dst, const Slice& s, const Tensor& src) {
  constexpr const char* kOp = "assign_slice";
  check<DTypeError>(dst.dtype() == src.dtype(), kOp, "cannot assign ", name(src.dtype()), " to ", name(dst.dtype()),
                    "; cast it first");
  const View to = sliced(kOp, dst, s);
  const Shape shape(s.sizes);
  check<ShapeError>(broadcast(kOp, src.shape(), shape) == shape, kOp, "cannot assign ", src.shape(), " to a slice of ",
                    shape);
  // Overlapping views are copied first: x[1:] = x[:-1] moves the old values.
  const Tensor from = src.storage() == dst.storage() ? copy(src) : src;
  launch_copy(kOp, shape, from, {0, broadcast_strides(from.shape(), shape)}, update(&StridedCopyArgs::dst, dst), to);
}

Tensor concat(const std::vector<Tensor>& inputs, int64_t axis) {
  check<ShapeError>(!inputs.empty(), "concat", "expects at least one tensor");
  const Tensor& first = inputs[0];
  const int rank = first.rank();
  check<ShapeError>(axis >= -rank && axis < rank, "concat", "axis ", axis, " is out of range for rank ", rank);
  const int a = static_cast<int>(axis < 0 ? axis + rank : axis);
  int64_t total = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& t = inputs[i];
    check<DTypeError>(t.dtype() == first.dtype(), "concat", "tensor 0 is ", name(first.dtype()), ", tensor ", i, " is ",
                      name(t.dtype()), "; cast one of them");
    check<ShapeError>(t.rank() == rank && t.shape().with(a, 0) == first.shape().with(a, 0), "concat",
                      "tensor 0 has shape ", first.shape(), ", tensor ", i, " has ", t.shape(), "; only axis ", a,
                      " may differ");
    check<ShapeError>(!__builtin_add_overflow(total, t.dim(a), &total), "concat", "the sizes along axis ", a,
                      " add up to more than 63 bits");
  }
  const Shape shape = first.shape().with(a, total);
  const Tensor y = Tensor::empty(first.dtype(), shape, first.device());
  View to = whole(shape);
  for (const Tensor& t : inputs) {
    launch_copy("concat", t.shape(), t, whole(t.shape()), update(&StridedCopyArgs::dst, y), to);
    to.offset += t.dim(a) * to.strides[a];
  }
  return y;
}

Tensor pad(const Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& widths, double value) {
  check<ShapeError>(static_cast<int>(widths.size()) == x.rank(), "pad", "got ", widths.size(),
                    " pairs of widths for rank ", x.rank(), " (x: ", x.shape(), ")");
  Shape shape = x.shape();
  for (int d = 0; d < x.rank(); ++d) {
    const auto [lo, hi] = widths[d];
    check<ShapeError>(lo >= 0 && hi >= 0, "pad", "negative width (", lo, ", ", hi, ") in dimension ", d,
                      "; use slice to crop");
    int64_t size;
    const bool fits = !__builtin_add_overflow(x.dim(d), lo, &size) && !__builtin_add_overflow(size, hi, &size);
    check<ShapeError>(fits, "pad", "the widths (", lo, ", ", hi, ") and dimension ", d, " of size ", x.dim(d),
                      " add up to more than 63 bits");
    shape = shape.with(d, size);
  }
  if (shape == x.shape()) return copy(x);
  const Tensor y = full(shape, value, x.dtype(), x.device());
  View to = whole(shape);
  for (int d = 0; d < x.rank(); ++d) to.offset += widths[d].first * to.strides[d];
  launch_copy("pad", x.shape(), x, whole(x.shape()), update(&StridedCopyArgs::dst, y), to);
  return y;
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  check<ShapeError>(broadcast("broadcast_to", x.shape(), shape) == shape, "broadcast_to", x.shape(),
                    " does not broadcast to ", shape);
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  launch_copy("broadcast_to", shape, x, {0, broadcast_strides(x.shape(), shape)}, write(&StridedCopyArgs::dst, y),
              whole(shape));
  return y;
}

}  // namespace quernel::ops
