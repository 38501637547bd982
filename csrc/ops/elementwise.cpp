#include "ops/elementwise.h"

#include "core/error.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

// A block of kElementBlock elements costs about a nanosecond per 16 bytes moved from cache, more for exp and the like.
Work elementwise_work(int64_t size, double ns_per_element) {
  return {(size + kElementBlock - 1) / kElementBlock, ns_per_element * static_cast<double>(kElementBlock)};
}

void launch_unary(const char* op, UnaryOp kind, const Tensor& x, const Tensor& y) {
  UnaryArgs args;
  args.op = kind;
  args.dtype = x.dtype();
  args.size = x.size();
  launch(op, &KernelTable::unary, args, elementwise_work(x.size(), 0.25), {read(&UnaryArgs::x, x), write(&UnaryArgs::y, y)});
}

}  // namespace

Tensor unary(const char* op, UnaryOp kind, const Tensor& x) {
  const Tensor y = Tensor::empty(x.dtype(), x.shape());
  launch_unary(op, kind, x, y);
  return y;
}

void copy_into(const Tensor& dst, const Tensor& src) {
  check<ShapeError>(dst.shape() == src.shape(), "copy", "cannot copy ", src.shape(), " into ", dst.shape());
  check<DTypeError>(dst.dtype() == src.dtype(), "copy", "cannot copy ", name(src.dtype()), " into ", name(dst.dtype()));
  launch_unary("copy", UnaryOp::kCopy, src, dst);
}

void add_into(const Tensor& dst, const Tensor&) { fail<UnsupportedError>("add", "arrives with the binary kernels", dst.shape()); }

}  // namespace quernel::ops
