#include "ops/softmax.h"

#include "core/error.h"
#include "ops/common.h"
#include "ops/loss.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

Work rows_work(DType dtype, int64_t rows, int64_t cols, double passes) {
  return {cols == 0 ? 0 : rows, 15 + passes * (dtype == DType::kFloat64 ? 8 : 0.5) * static_cast<double>(cols)};
}

Tensor along_rows(const char* op, const Tensor& x, const Tensor& g, bool log) {
  check_floating(op, "x", x.dtype());
  check<ShapeError>(x.rank() >= 1, op, "expects at least one dimension, x is a scalar");
  if (g.defined()) check_like(op, "g", g, x.shape(), x.dtype());
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
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

CrossEntropyArgs cross_entropy_args(const char* op, const Tensor& logits, const Tensor& target, const Tensor& weight,
                                    const CrossEntropy& c) {
  check_floating(op, "logits", logits.dtype());
  check<ShapeError>(logits.rank() == 2 && logits.dim(1) > 0, op, "logits must have shape (N, C) with C > 0, is ",
                    logits.shape());
  if (weight.defined()) check_like(op, "weight", weight, {logits.dim(1)}, logits.dtype());
  if (target.dtype() == logits.dtype()) {
    check_like(op, "target", target, logits.shape(), logits.dtype());
  } else {
    check<ShapeError>(target.shape() == Shape{logits.dim(0)}, op, "labels must have shape (", logits.dim(0),
                      ",) for logits ", logits.shape(), ", is ", target.shape());
    check<DTypeError>(target.dtype() == DType::kInt64, op, "labels must be int64, is ", name(target.dtype()),
                      "; cast them");
  }
  CrossEntropyArgs args;
  args.dtype = logits.dtype();
  args.rows = logits.dim(0);
  args.cols = logits.dim(1);
  args.smoothing = c.smoothing;
  args.ignore_index = c.ignore_index;
  args.normalized = c.normalized;
  check<ArgumentError>(!c.normalized || (target.dtype() == DType::kInt64 && c.smoothing == 0), op,
                       "logarithms of probabilities go with labels, without smoothing");
  return args;
}

// Where the target goes: labels, or probabilities.
Operand read_target(const Tensor& target) {
  return target.dtype() == DType::kInt64 ? read(&CrossEntropyArgs::labels, target)
                                         : read(&CrossEntropyArgs::targets, target);
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

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& weight, const CrossEntropy& c) {
  const char* op = "cross_entropy";
  const CrossEntropyArgs args = cross_entropy_args(op, logits, target, weight, c);
  if (target.dtype() == DType::kInt64) {
    CheckLabelsArgs checked;
    checked.size = target.size();
    checked.classes = args.cols;
    checked.ignore_index = c.ignore_index;
    launch(op, &KernelTable::check_labels, checked, element_blocks(target.size(), 0.5),
           {read(&CheckLabelsArgs::labels, target)});
  } else {
    check_probabilities(op, target, false, kProbabilitySlack);
  }
  const Tensor y = Tensor::empty(logits.dtype(), {args.rows}, logits.device());
  launch(op, &KernelTable::cross_entropy, args, rows_work(args.dtype, args.rows, args.cols, 1.2),
         {read(&CrossEntropyArgs::x, logits), read_target(target), read(&CrossEntropyArgs::weight, weight),
          write(&CrossEntropyArgs::y, y)});
  return y;
}

Tensor cross_entropy_grad(const Tensor& logits, const Tensor& target, const Tensor& weight, const Tensor& g,
                          const Tensor& divisor, const CrossEntropy& c, double scale) {
  const char* op = "cross_entropy";
  CrossEntropyArgs args = cross_entropy_args(op, logits, target, weight, c);
  args.scale = scale;
  args.g_is_number = g.rank() == 0;
  check_like(op, "g", g, args.g_is_number ? Shape{} : Shape{args.rows}, logits.dtype());
  if (divisor.defined()) check_like(op, "divisor", divisor, Shape{}, logits.dtype());
  const Tensor y = Tensor::empty(logits.dtype(), logits.shape(), logits.device());
  launch(op, &KernelTable::cross_entropy_grad, args, rows_work(args.dtype, args.rows, args.cols, 1.5),
         {read(&CrossEntropyArgs::x, logits), read_target(target), read(&CrossEntropyArgs::weight, weight),
          read(&CrossEntropyArgs::g, g), read(&CrossEntropyArgs::divisor, divisor), write(&CrossEntropyArgs::y, y)});
  return y;
}

std::pair<Tensor, Tensor> cross_entropy_mean(const Tensor& losses, const Tensor& labels, const Tensor& weight,
                                             int64_t ignore_index, int64_t classes) {
  const char* op = "cross_entropy";
  check_like(op, "labels", labels, losses.shape(), DType::kInt64);
  if (weight.defined()) check_like(op, "weight", weight, {classes}, losses.dtype());
  CrossEntropyMeanArgs args;
  args.dtype = losses.dtype();
  args.rows = losses.size();
  args.cols = classes;
  args.ignore_index = ignore_index;
  const Tensor y = Tensor::empty(losses.dtype(), {}, losses.device()),
               divisor = Tensor::empty(losses.dtype(), {}, losses.device());
  launch(op, &KernelTable::cross_entropy_mean, args, {1, 20 + static_cast<double>(args.rows)},
         {read(&CrossEntropyMeanArgs::losses, losses), read(&CrossEntropyMeanArgs::labels, labels),
          read(&CrossEntropyMeanArgs::weight, weight), write(&CrossEntropyMeanArgs::y, y),
          write(&CrossEntropyMeanArgs::divisor, divisor)});
  return {y, divisor};
}

}  // namespace quernel::ops
