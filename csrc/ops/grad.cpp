#include "ops/grad.h"

#include <algorithm>

#include "core/error.h"
#include "ops/elementwise.h"
#include "runtime/dispatch.h"
#include "runtime/recorder.h"
#include "runtime/transaction.h"

namespace quernel::ops {
namespace {

constexpr const char* kOp = "backward";

// What the leaf has now comes back if the step is undone.
Tensor::GradSlot& slot_to_change(const Tensor& param) {
  if (Transaction* transaction = Transaction::current()) transaction->before_grad_change(param);
  return param.grad_slot();
}

// The kind of a gradient may change between steps, not within one.
void check_kind(const Tensor& param, bool by_rows, bool has_grad) {
  const Tensor::GradSlot& slot = param.grad_slot();
  if (!slot.grad || (slot.rows != nullptr) == by_rows) return;
  check<StateError>(
      !has_grad, kOp, "a parameter of shape ", param.shape(),
      " gets a gradient by rows (from a lookup with sparse=True) and a dense one; use sparse=False in all "
      "of its lookups");
  leave_grad_memory(slot.grad);
  leave_grad_memory(slot.rows);
  slot_to_change(param) = {};
}

Tensor first_rows(const Tensor& t, int64_t rows) {
  return t.flat_view(0, rows * (t.size() / t.dim(0))).reshape(t.shape().with(0, rows));
}

// Memory for `most` rows that begins with the rows in use.
void reserve_rows(const Tensor& param, int64_t most) {
  if (param.grad_slot().rows && param.grad_slot().rows->size() >= most) return;
  Tensor::GradSlot& slot = slot_to_change(param);
  const Tensor rows = Tensor::empty(DType::kInt64, Shape{most}, param.device());
  const Tensor grad = Tensor::empty(param.dtype(), Shape{most, param.dim(1)}, param.device());
  if (slot.held > 0) {
    copy_into(rows.flat_view(0, slot.held), slot.rows->flat_view(0, slot.held));
    copy_into(first_rows(grad, slot.held), first_rows(*slot.grad, slot.held));
  }
  leave_grad_memory(slot.rows);
  leave_grad_memory(slot.grad);
  slot.rows = std::make_shared<Tensor>(rows);
  slot.grad = std::make_shared<Tensor>(grad);
}

}  // namespace

void accumulate_grad(const Tensor& param, const Tensor& g) {
  check<ShapeError>(param.shape() == g.shape(), kOp, "gradient of shape ", g.shape(), " for a parameter of shape ",
                    param.shape());
  Tensor::GradSlot& slot = param.grad_slot();
  const bool has_grad = read_held_grad(param) != 0;
  check_kind(param, false, has_grad);
  if (!slot.grad) slot.grad = std::make_shared<Tensor>(Tensor::empty(g.dtype(), g.shape(), g.device()));
  if (has_grad) {
    add_into(*slot.grad, g);
  } else {
    copy_into(*slot.grad, g);
    set_held_grad(param, 1);
  }
}

void accumulate_row_grad(const Tensor& param, const Tensor& g, const Lookups& lookups) {
  check<ShapeError>(param.rank() == 2, kOp, "a gradient by rows needs a table, got a parameter of shape ",
                    param.shape());
  const int64_t kept = read_held_grad(param);
  check_kind(param, true, kept != 0);
  const int64_t most = std::clamp<int64_t>(kept + lookups.index.size(), 1, std::max<int64_t>(param.dim(0), 1));
  reserve_rows(param, most);
  const Tensor::GradSlot& slot = param.grad_slot();
  const Groups groups = group_rows(lookups, *slot.rows, kept, most, param.dim(0));
  sum_rows(lookups, groups, g, first_rows(*slot.grad, most), kept > 0);
  set_held_grad(param, most);
}

std::pair<Tensor, Tensor> row_grad(const Tensor& param) {
  const Tensor::GradSlot& slot = param.grad_slot();
  check<StateError>(slot.rows && slot.held > 0, kOp, "there is no gradient by rows");
  return {slot.rows->flat_view(0, slot.held), first_rows(*slot.grad, slot.held)};
}

void zero_grads(const std::vector<Tensor>& params) {
  for (const Tensor& param : params) set_held_grad(param, 0);
}

}  // namespace quernel::ops
