#include "ops/ctc.h"

#include "ops/common.h"
#include "ops/recurrent.h"

namespace quernel::ops {
namespace {

constexpr const char* kOp = "ctc_loss";
constexpr double kNsPerState = 3;  // and step, float32

void check_operands(const Tensor& log_probs, const Tensor& targets, const Tensor& lengths, const Tensor& target_lengths,
                    int64_t blank) {
  check_floating(kOp, "log_probs", log_probs.dtype());
  check<ShapeError>(log_probs.rank() == 3 && log_probs.dim(1) > 0 && log_probs.dim(2) > 0, kOp,
                    "log_probs is (N, T, C), got ", log_probs.shape());
  const int64_t rows = log_probs.dim(0);
  check<ShapeError>(targets.rank() == 2 && targets.dim(0) == rows, kOp, "targets are (N, labels) = (", rows,
                    ", labels), got ", targets.shape());
  check<DTypeError>(targets.dtype() == DType::kInt64, kOp, "targets must be int64, are ", name(targets.dtype()));
  if (lengths.defined()) check_like(kOp, "input_lengths", lengths, {rows}, DType::kInt64);
  if (target_lengths.defined()) check_like(kOp, "target_lengths", target_lengths, {rows}, DType::kInt64);
  check<ArgumentError>(blank >= 0 && blank < log_probs.dim(2), kOp, "blank ", blank, " is none of the ",
                       log_probs.dim(2), " classes");
}

// The values of lengths and labels.
void check_values(const CtcArgs& a, const Tensor& targets, const Tensor& lengths, const Tensor& target_lengths) {
  if (lengths.defined()) check_lengths(kOp, lengths, {1, a.steps, kTimeSteps});
  if (target_lengths.defined()) check_lengths(kOp, target_lengths, {0, a.labels, "labels"});
  launch(kOp, &KernelTable::check_ctc_labels,
         CheckCtcLabelsArgs{nullptr, nullptr, a.rows, a.labels, a.classes, a.blank},
         {1, static_cast<double>(targets.size())},
         {read(&CheckCtcLabelsArgs::targets, targets), read(&CheckCtcLabelsArgs::target_lengths, target_lengths)});
}

}  // namespace

CtcResult ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& lengths, const Tensor& target_lengths,
                   int64_t blank, bool wants_grad) {
  check_operands(log_probs, targets, lengths, target_lengths, blank);
  CtcArgs a;
  a.dtype = log_probs.dtype();
  a.wants_grad = wants_grad;
  a.rows = log_probs.dim(0);
  a.steps = log_probs.dim(1);
  a.classes = log_probs.dim(2);
  a.labels = targets.dim(1);
  a.blank = blank;
  CtcResult r;
  r.loss = Tensor::empty(a.dtype, {a.rows}, log_probs.device());
  if (wants_grad) r.grad = Tensor::empty(a.dtype, log_probs.shape(), log_probs.device());
  if (a.rows == 0) return r;
  check_values(a, targets, lengths, target_lengths);
  const double cells = static_cast<double>(a.steps * (2 * a.labels + 1)) * (a.dtype == DType::kFloat64 ? 8 : 1);
  launch(
      kOp, &KernelTable::ctc_loss, a, {a.rows, kNsPerState * cells * (wants_grad ? 3 : 1)},
      {read(&CtcArgs::log_probs, log_probs), read(&CtcArgs::targets, targets), read(&CtcArgs::lengths, lengths),
       read(&CtcArgs::target_lengths, target_lengths), write(&CtcArgs::loss, r.loss), write(&CtcArgs::grad, r.grad)});
  return r;
}

}  // namespace quernel::ops
