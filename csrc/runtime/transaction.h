// All or nothing for a step that runs op by op: while a Transaction is open on this thread, the first in-place write
// to any tensor that existed before keeps a copy, and rollback() puts everything back. Plans need none of this: their
// checks run before their first write (runtime/plan.h).
#pragma once
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace quernel {

// Plans and optimizers that know this memory of a gradient, which may be null, must look again.
void leave_grad_memory(const std::shared_ptr<Tensor>& memory);

class Transaction {
 public:
  Transaction() = default;
  ~Transaction() { close(); }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  static Transaction* current();

  void before_write(const Tensor& tensor);       // skips what was allocated since the transaction opened
  void save(const Tensor& tensor);               // the same without that exception
  void before_grad_change(const Tensor& param);  // remembers its gradient's memory, and what that held
  void rollback();
  void open();   // nests by doing nothing; may be opened again once closed
  void close();  // keeps what was written

 private:
  struct Saved {
    Tensor tensor;
    std::vector<std::byte> bytes;
  };
  struct SavedSlot {
    Tensor param;
    Tensor::GradSlot slot;
  };
  bool outermost_ = false;  // and open
  uint64_t first_storage_ = 0;
  std::vector<Saved> saved_;
  std::vector<SavedSlot> slots_;
};

}  // namespace quernel
