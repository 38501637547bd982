#include "runtime/batch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/allocator.h"
#include "core/error.h"
#include "runtime/profile.h"
#include "runtime/thread_pool.h"

namespace quernel {
namespace {

int64_t rows_of(const Plan& plan) { return plan.outputs()[0].shape[0]; }

int64_t row_nbytes(const Plan::TensorSpec& spec) { return static_cast<int64_t>(spec.nbytes()) / spec.shape[0]; }

const Plan::TensorSpec& operand(const Plan& plan, size_t i) {
  const size_t inputs = plan.arguments().size();
  return i < inputs ? plan.arguments()[i] : plan.outputs()[i - inputs];
}

}  // namespace

BatchPlan::BatchPlan(std::shared_ptr<const Plan> whole) : piece_(std::move(whole)) {}

BatchPlan::BatchPlan(std::shared_ptr<const Plan> piece, int64_t count, std::shared_ptr<const Plan> rest, int64_t rows)
    : piece_(std::move(piece)), rest_(std::move(rest)), rows_(rows), count_(count) {
  check<ArgumentError>((piece_ || count == 0) && (piece_ || rest_), "batch", "there is no plan for ", count,
                       " pieces of ", rows, " rows");
  left_ = rest_ ? rows - (piece_ ? count * rows_of(*piece_) : 0) : 0;
  if (rest_)
    check<ArgumentError>(left_ > 0 && left_ <= rows_of(*rest_) && rows_of(*rest_) < 2 * rows, "batch", "a plan of ",
                         rows_of(*rest_), " rows cannot take the last ", left_, " of ", rows);
}

double BatchPlan::work_ns() const {
  return (piece_ ? piece_->work_ns() * static_cast<double>(count_) : 0) + (rest_ ? rest_->work_ns() : 0);
}

bool BatchPlan::is_apart(size_t a) const {
  const int64_t size = rows_of(*rest_);
  return a < inputs() ? rows_ < size : left_ < size;
}

int64_t BatchPlan::nbytes(int64_t threads) const {
  if (device() == Device::kCuda) threads = 1;  // one piece after another
  const int64_t piece = piece_ ? piece_->arena_nbytes() : 0;
  const int64_t pieces = piece * std::min(threads, count_);
  if (!rest_) return pieces;
  int64_t rest = rest_->arena_nbytes();
  for (size_t a = 0; a < inputs() + results(); ++a)
    if (is_apart(a)) rest += static_cast<int64_t>(operand(*rest_, a).nbytes());
  return std::max(pieces, rest + piece * std::min(threads - 1, count_));
}

void BatchPlan::run_piece(int64_t i, std::span<std::byte* const> arrays, ArenaPool& arenas) const {
  std::vector<std::byte*> bases(1 + arrays.size());
  for (size_t a = 0; a < arrays.size(); ++a) {
    bases[1 + a] = arrays[a];
    if (i > 0) bases[1 + a] += i * rows_of(*piece_) * row_nbytes(operand(*piece_, a));
  }
  piece_->replay_into(bases, arenas);
}

// A rest of more rows than are left takes those before them too, which a piece computes as well; if the batch has fewer
// in all, its first ones come once more behind it. The results that are wanted are copied.
void BatchPlan::run_rest(std::span<std::byte* const> arrays, ArenaPool& arenas) const {
  const int64_t size = rows_of(*rest_), there = std::min(size, rows_);
  std::vector<std::byte*> bases(1 + arrays.size());
  std::vector<std::shared_ptr<Storage>> own(arrays.size());
  const auto copy = [&](std::byte* to, const std::byte* from, int64_t nbytes) {
    allocator(device()).copy(to, from, static_cast<size_t>(nbytes));
  };
  for (size_t a = 0; a < arrays.size(); ++a) {
    const Plan::TensorSpec& spec = operand(*rest_, a);
    const int64_t row = row_nbytes(spec);
    bases[1 + a] = arrays[a] + (rows_ - there) * row;
    if (!is_apart(a)) continue;
    own[a] = Storage::allocate(spec.nbytes(), device());
    bases[1 + a] = own[a]->data();
    if (a >= inputs()) continue;
    copy(bases[1 + a], arrays[a], there * row);
    copy(bases[1 + a] + there * row, arrays[a], (size - there) * row);
  }
  rest_->replay_into(bases, arenas);
  for (size_t a = inputs(); a < arrays.size(); ++a) {
    const int64_t row = row_nbytes(operand(*rest_, a));
    if (own[a]) copy(arrays[a] + (rows_ - left_) * row, bases[1 + a] + (there - left_) * row, left_ * row);
  }
}

void BatchPlan::run(std::span<std::byte* const> arrays, ArenaPool& arenas) const {
  auto run_pieces = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) i < count_ ? run_piece(i, arrays, arenas) : run_rest(arrays, arenas);
  };
  const int64_t pieces = count_ + (rest_ ? 1 : 0);
  // A profile hears of its own thread alone, and CUDA gets its work from one.
  if (pieces == 1 || Profile::current() || device() == Device::kCuda) return run_pieces(0, pieces);
  using Pieces = decltype(run_pieces);
  ThreadPool::instance().run([](void* p, int64_t begin, int64_t end, int) { (*static_cast<Pieces*>(p))(begin, end); },
                             &run_pieces, pieces, 1, true, any().work_ns());
}

}  // namespace quernel
