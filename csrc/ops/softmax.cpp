#include "ops/softmax.h"

#include "core/error.h"
#include "ops/common.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

void check_like(const char* op, const char* what, const Tensor& t, const Shape& shape, DType dtype) {
  check<ShapeError>(t.shape() == shape, op, what, " expects shape ", shape, ", is ", t.shape());
  check<DTypeError>(t.dtype() == dtype, op, what, " expects ", name(dtype), ", is ", name(t.dtype()));
}

Work rows_work(DType dtype, int64_t rows, int64_t cols, double passes) {
  return {cols == 0 ? 0 : rows, 15 + passes * (dtype == DType::kFloat64 ? 8 : 0.5) * static_cast<double>(cols)};
}

Tensor along_rows(const char* op, const Tensor& x, const Tensor& g, bool log) {
  check_floating(op, "x", x.dtype());
  check<ShapeError>(x.rank() >= 1, op, "expects at least one dimension, x is a scalar");
  if (g.defined()) check_like(op, "g", g, x.shape(), x.dtype());
  const Tensor y = Tensor::empty(x.dtype(), x.shape());
  SoftmaxArgs args;
  args.dtype = x.dtype();
  args.log = log;
  args.cols = x.dim(-1);
  args.rows = args.cols == 0 ? 0 : x.size() / args.cols;
  launch(op, g.defined() ? &KernelTable::softmax_grad : &KernelTable::softmax, args,
         rows_work(x.dtype(), args.rows, args.cols, 1.5),
         {read(&SoftmaxArgs::x, x), read(&SoftmaxArgs::g, g), write(&SoftmaxArgs::y, y)});
  return y;
}

CrossEntropyArgs cross_entropy_args(const char* op, const Tensor& logits, const Tensor& labels) {
  check_floating(op, "logits", logits.dtype());
  check<ShapeError>(logits.rank() == 2 && logits.dim(1) > 0, op, "logits must have shape (N, C) with C > 0, is ",
                    logits.shape());
  check<ShapeError>(labels.shape() == Shape{logits.dim(0)}, op, "labels must have shape (", logits.dim(0),
                    ",) for logits ", logits.shape(), ", is ", labels.shape());
  check<DTypeError>(labels.dtype() == DType::kInt64, op, "labels must be int64, is ", name(labels.dtype()),
                    "; cast them");
  CrossEntropyArgs args;
  args.dtype = logits.dtype();
  args.rows = logits.dim(0);
  args.cols = logits.dim(1);
  CheckLabelsArgs checked;
  checked.size = labels.size();
  checked.classes = args.cols;
  launch(op, &KernelTable::check_labels, checked, {(labels.size() + kElementBlock - 1) / kElementBlock, 2000},
         {read(&CheckLabelsArgs::labels, labels)});
  return args;
}

}  // namespace

Tensor softmax(const Tensor& x) { return along_rows("softmax", x, {}, false); }
Tensor log_softmax(const Tensor& x) { return along_rows("log_softmax", x, {}, true); }
Tensor softmax_grad(const Tensor& y, const Tensor& g) {
  check<StateError>(g.defined(), "softmax", "backward expects a gradient");
  return along_rows("softmax", y, g, false);
}
Tensor log_softmax_grad(const Tensor& y, const Tensor& g) {
  check<StateError>(g.defined(), "log_softmax", "backward expects a gradient");
  return along_rows("log_softmax", y, g, true);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& labels) {
  const CrossEntropyArgs args = cross_entropy_args("cross_entropy", logits, labels);
  const Tensor y = Tensor::empty(logits.dtype(), labels.shape());
  launch("cross_entropy", &KernelTable::cross_entropy, args, rows_work(args.dtype, args.rows, args.cols, 1.2),
         {read(&CrossEntropyArgs::x, logits), read(&CrossEntropyArgs::labels, labels), write(&CrossEntropyArgs::y, y)});
  return y;
}

Tensor cross_entropy_grad(const Tensor& logits, const Tensor& labels, const Tensor& g) {
  const CrossEntropyArgs args = cross_entropy_args("cross_entropy", logits, labels);
  check_like("cross_entropy", "g", g, labels.shape(), logits.dtype());
  const Tensor y = Tensor::empty(logits.dtype(), logits.shape());
  launch("cross_entropy", &KernelTable::cross_entropy_grad, args, rows_work(args.dtype, args.rows, args.cols, 1.5),
         {read(&CrossEntropyArgs::x, logits), read(&CrossEntropyArgs::labels, labels), read(&CrossEntropyArgs::g, g),
          write(&CrossEntropyArgs::y, y)});
  return y;
}

}  // namespace quernel::ops
