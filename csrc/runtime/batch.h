// A frozen model's batch, depth first: it is cut into pieces of rows, and a thread takes a piece through all steps of
// a plan, in an arena that is its own meanwhile, then the next piece. So a call forks once and not once per step, and
// what passes between steps stays in the thread's cache. Which size of piece pays is for the caller to know
// (graph/pieces.py).
//
// Bits stay as they are where no row of the model's results depends on other rows (graph/rows.py): kernels sum in an
// order that the number of rows has no part in.
#pragma once
#include <memory>
#include <span>

#include "runtime/plan.h"

namespace quernel {

class BatchPlan {
 public:
  // The batch that `whole` was recorded with; its steps are shared out over the threads one by one.
  explicit BatchPlan(std::shared_ptr<const Plan> whole);
  // A batch of `rows`: `piece` `count` times, then `rest` for the rows left over. Either may be null where it has none
  // to do. `rest` may be of more rows than are left, but of fewer than twice `rows`.
  BatchPlan(std::shared_ptr<const Plan> piece, int64_t count, std::shared_ptr<const Plan> rest, int64_t rows);

  size_t inputs() const { return any().arguments().size(); }
  size_t results() const { return any().outputs().size(); }
  DType input_dtype(size_t i) const { return any().arguments()[i].dtype; }
  DType result_dtype(size_t i) const { return any().outputs()[i].dtype; }
  Shape input_shape(size_t i) const { return of_all_rows(any().arguments()[i].shape); }
  Shape result_shape(size_t i) const { return of_all_rows(any().outputs()[i].shape); }
  Device device() const { return any().device(); }
  bool stale() const { return (piece_ && piece_->stale()) || (rest_ && rest_->stale()); }
  double work_ns() const;                 // estimated, on one thread
  int64_t nbytes(int64_t threads) const;  // of temporary memory, at most, where so many threads work on it

  // `arrays`: the inputs, then the results, contiguous. A kernel's refusal (a bad index, …) tells the place of its
  // cause in a piece.
  void run(std::span<std::byte* const> arrays, ArenaPool& arenas) const;

 private:
  const Plan& any() const { return piece_ ? *piece_ : *rest_; }
  Shape of_all_rows(const Shape& recorded) const { return cut() ? recorded.with(0, rows_) : recorded; }
  bool cut() const { return rest_ || count_ > 1; }
  // Of the rest, whether operand `a` lies in memory of its own while it runs: more rows than are there, or are wanted.
  bool is_apart(size_t a) const;
  void run_piece(int64_t i, std::span<std::byte* const> arrays, ArenaPool& arenas) const;
  void run_rest(std::span<std::byte* const> arrays, ArenaPool& arenas) const;

  std::shared_ptr<const Plan> piece_, rest_;
  int64_t rows_ = 0;
  int64_t count_ = 1, left_ = 0;  // pieces, and rows for the rest
};

}  // namespace quernel
