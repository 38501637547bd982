#include "runtime/transaction.h"

#include <algorithm>
#include <utility>

#include "core/allocator.h"
#include "runtime/dispatch.h"

namespace quernel {
namespace {
thread_local Transaction* open_transaction = nullptr;
}

void leave_grad_memory(const std::shared_ptr<Tensor>& memory) {
  if (!memory) return;
  memory->storage()->note_departure();
  bump_config_epoch();
}

void Transaction::open() {
  if (open_transaction != nullptr) return;
  first_storage_ = Storage::next_id();
  outermost_ = true;
  open_transaction = this;
}

void Transaction::close() {
  if (!outermost_) return;
  open_transaction = nullptr;
  outermost_ = false;
  saved_.clear();
  slots_.clear();
}

Transaction* Transaction::current() { return open_transaction; }

void Transaction::before_write(const Tensor& tensor) {
  if (tensor.storage()->id() < first_storage_) save(tensor);
}

void Transaction::save(const Tensor& tensor) {
  // Copies may overlap (a parameter and the flat segment that holds it): restoring in reverse order of saving ends
  // with the oldest bytes everywhere, so only an exact repeat is skipped.
  for (const Saved& s : saved_) {
    if (s.tensor.data() == tensor.data() && s.bytes.size() >= tensor.nbytes()) return;
  }
  std::vector<std::byte> bytes(tensor.nbytes());
  allocator(tensor.device()).download(bytes.data(), tensor.data(), bytes.size());
  saved_.push_back({tensor, std::move(bytes)});
}

void Transaction::before_grad_change(const Tensor& param) {
  for (const SavedSlot& s : slots_) {
    if (s.param.same_as(param)) return;
  }
  slots_.push_back({param, param.grad_slot()});
}

void Transaction::rollback() {
  for (auto s = saved_.rbegin(); s != saved_.rend(); ++s) {
    allocator(s->tensor.device()).upload(s->tensor.data(), s->bytes.data(), s->bytes.size());
    s->tensor.bump_version();
  }
  for (const SavedSlot& s : slots_) {
    const Tensor::GradSlot made = std::exchange(s.param.grad_slot(), s.slot);
    if (made.grad != s.slot.grad) leave_grad_memory(made.grad);
    if (made.rows != s.slot.rows) leave_grad_memory(made.rows);
  }
  saved_.clear();
  slots_.clear();
}

}  // namespace quernel
