#include "ops/embedding.h"

#include <algorithm>

#include "core/error.h"
#include "ops/common.h"
#include "ops/elementwise.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr double kNsPerByte = 1.0 / 16;
constexpr double kNsPerLookup = 0.4;

void check_view(const IndexUse& use, const char* what, const Tensor& t) {
  check<ShapeError>(t.rank() == 3, use.op, what, " must be (outer, rows, inner), has shape ", t.shape());
}

void check_addable(const IndexUse& use, DType dtype) {
  check<DTypeError>(dtype != DType::kBool && !is_half(dtype), use.op, "cannot add ", name(dtype),
                    " elements; cast them first");
}

// What an item of put_rows does: its share of the rows of y, of the source rows, and a look at the whole index.
Work put_work(PutRowsArgs& args, int64_t outer) {
  const double bytes = kNsPerByte * static_cast<double>(args.inner * args.itemsize);
  const double rows = args.onto == PutOnto::kItself ? 0 : static_cast<double>(args.rows) * bytes;
  const double moved = rows + static_cast<double>(args.n) * (3 + 2 * bytes);
  const double look = kNsPerLookup * static_cast<double>(args.n);
  // So many blocks that looking for their rows costs a quarter of the rest.
  const double most = look > 0 ? 0.25 * moved / look : 64;
  args.blocks = std::clamp<int64_t>(static_cast<int64_t>(std::min(most, 64.0)), 1, std::max<int64_t>(args.rows, 1));
  const int64_t items = args.rows * args.inner == 0 ? 0 : outer * args.blocks;
  return {items, 10 + look + moved / static_cast<double>(args.blocks)};
}

PutRowsArgs put_args(const IndexUse& use, const Tensor& index, const Tensor& src, int64_t rows) {
  check_view(use, "the source", src);
  check<ShapeError>(src.dim(1) == index.size(), use.op, "got ", index.size(), " indices for ", src.dim(1),
                    " rows (source: ", src.shape(), ")");
  check_index(use, index, rows);
  PutRowsArgs args;
  args.dtype = src.dtype();
  args.itemsize = static_cast<int32_t>(itemsize(src.dtype()));
  args.rows = rows;
  args.n = src.dim(1);
  args.inner = src.dim(2);
  return args;
}

}  // namespace

void check_index(const IndexUse& use, const Tensor& index, int64_t rows) {
  check<DTypeError>(index.dtype() == DType::kInt64, use.op, "indices must be int64, are ", name(index.dtype()),
                    "; cast them");
  CheckIndexArgs args;
  args.size = index.size();
  args.limit = rows;
  args.wrap = use.wrap;
  args.place.unit = use.unit;
  args.place.axis = use.axis;
  args.place.rank = index.rank();
  std::copy(index.shape().begin(), index.shape().end(), args.place.dims);
  launch(use.op, &KernelTable::check_index, args, element_blocks(args.size, 0.2),
         {read(&CheckIndexArgs::index, index)});
}

Tensor fold_index(const IndexUse& use, const Tensor& high, const Tensor& index, int64_t rows) {
  check_index(use, index, rows);
  if (high.defined()) check_like(use.op, "the index before", high, index.shape(), DType::kInt64);
  const Tensor y = Tensor::empty(DType::kInt64, index.shape(), index.device());
  FoldIndexArgs args;
  args.size = index.size();
  args.rows = rows;
  launch(use.op, &KernelTable::fold_index, args, element_blocks(args.size, 0.5),
         {read(&FoldIndexArgs::index, index), read(&FoldIndexArgs::high, high), write(&FoldIndexArgs::y, y)});
  return y;
}

Tensor take_rows(const IndexUse& use, const Tensor& x, const Tensor& index) {
  check_view(use, "x", x);
  check_index(use, index, x.dim(1));
  const Tensor y = Tensor::empty(x.dtype(), Shape{x.dim(0), index.size(), x.dim(2)}, x.device());
  TakeRowsArgs args;
  args.rows = x.dim(1);
  args.n = index.size();
  args.row_bytes = x.dim(2) * static_cast<int64_t>(itemsize(x.dtype()));
  const Work work{y.size() == 0 ? 0 : x.dim(0) * args.n, 1 + kNsPerByte * static_cast<double>(args.row_bytes)};
  launch(use.op, &KernelTable::take_rows, args, work,
         {read(&TakeRowsArgs::x, x), read(&TakeRowsArgs::index, index), write(&TakeRowsArgs::y, y)});
  return y;
}

Tensor add_rows(const IndexUse& use, const Tensor& base, const Tensor& index, const Tensor& src, int64_t rows,
                int64_t skip) {
  PutRowsArgs args = put_args(use, index, src, rows);
  check_addable(use, args.dtype);
  const Shape shape{src.dim(0), rows, args.inner};
  if (base.defined()) check_like(use.op, "x", base, shape, args.dtype);
  args.onto = base.defined() ? PutOnto::kBase : PutOnto::kZeros;
  args.skip = skip;
  const Tensor y = Tensor::empty(args.dtype, shape, src.device());
  const Work work = put_work(args, src.dim(0));
  launch(use.op, &KernelTable::put_rows, args, work,
         {read(&PutRowsArgs::base, base), read(&PutRowsArgs::index, index), read(&PutRowsArgs::src, src),
          write(&PutRowsArgs::y, y)});
  return y;
}

void put_rows(const IndexUse& use, const Tensor& dst, const Tensor& index, const Tensor& src) {
  check_view(use, "x", dst);
  PutRowsArgs args = put_args(use, index, src, dst.dim(1));
  check_like(use.op, "the value", src, Shape{dst.dim(0), args.n, dst.dim(2)}, dst.dtype());
  if (src.size() == 0) return;
  args.onto = PutOnto::kItself;
  args.add = false;
  const Work work = put_work(args, dst.dim(0));
  const Tensor from = src.storage() == dst.storage() ? copy(src) : src;
  launch(use.op, &KernelTable::put_rows, args, work,
         {read(&PutRowsArgs::index, index), read(&PutRowsArgs::src, from), update(&PutRowsArgs::y, dst)});
}

Tensor gather(const IndexUse& use, const Tensor& x, const Tensor& index, int64_t n) {
  check_view(use, "x", x);
  const Shape shape = x.shape().with(1, n);
  check<ShapeError>(index.size() == shape.volume(), use.op, "index ", index.shape(), " does not fit ", shape);
  check_index(use, index, x.dim(1));
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  GatherArgs args;
  args.itemsize = static_cast<int32_t>(itemsize(x.dtype()));
  args.rows = x.dim(1);
  args.n = n;
  args.inner = x.dim(2);
  const Work work{y.size() == 0 ? 0 : y.dim(0) * args.n, 1 + 0.6 * static_cast<double>(args.inner)};
  launch(use.op, &KernelTable::gather, args, work,
         {read(&GatherArgs::x, x), read(&GatherArgs::index, index), write(&GatherArgs::y, y)});
  return y;
}

Tensor scatter_add(const IndexUse& use, const Tensor& base, const Tensor& index, const Tensor& src, int64_t rows) {
  check_view(use, "src", src);
  check<ShapeError>(index.size() == src.size(), use.op, "index ", index.shape(), " does not fit src ", src.shape());
  check_addable(use, src.dtype());
  check_index(use, index, rows);
  const Shape shape{src.dim(0), rows, src.dim(2)};
  if (base.defined()) check_like(use.op, "x", base, shape, src.dtype());
  const Tensor y = Tensor::empty(src.dtype(), shape, src.device());
  ScatterAddArgs args;
  args.dtype = src.dtype();
  args.rows = rows;
  args.n = src.dim(1);
  args.inner = src.dim(2);
  const int64_t tiles = (args.inner + kScatterTile - 1) / kScatterTile;
  const double columns = static_cast<double>(std::min(args.inner, kScatterTile));
  const Work work{rows == 0 ? 0 : src.dim(0) * tiles,
                  5 + columns * (static_cast<double>(rows) * 0.5 + static_cast<double>(args.n) * 1.2)};
  launch(use.op, &KernelTable::scatter_add, args, work,
         {read(&ScatterAddArgs::base, base), read(&ScatterAddArgs::index, index), read(&ScatterAddArgs::src, src),
          write(&ScatterAddArgs::y, y)});
  return y;
}

Tensor iota(DType dtype, int64_t size, double start, double step, int64_t whole_start, int64_t whole_step,
            Device device) {
  check<UnsupportedError>(!is_half(dtype), "arange", "has no ", name(dtype), " kernel; cast from float32");
  const Tensor y = Tensor::empty(dtype, Shape{size}, device);
  IotaArgs args;
  args.dtype = dtype;
  args.size = size;
  args.start = start;
  args.step = step;
  args.whole_start = whole_start;
  args.whole_step = whole_step;
  launch("arange", &KernelTable::iota, args, element_blocks(size, 0.3), {write(&IotaArgs::y, y)});
  return y;
}

}  // namespace quernel::ops
