#include "runtime/launch.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>

#include "core/error.h"
#include "runtime/cuda.h"
#include "runtime/dispatch.h"
#include "runtime/float_env.h"
#include "runtime/interrupt.h"
#include "runtime/os_thread.h"
#include "runtime/profile.h"
#include "runtime/recorder.h"
#include "runtime/thread_pool.h"
#include "runtime/transaction.h"

namespace quernel {
namespace {

constexpr double kForkNs = 10e3;   // below this a second thread costs more than it brings
constexpr double kChunkNs = 30e3;  // chunk length: short enough for balance and for Ctrl-C
constexpr int64_t kChunksPerThread = 4;

// What the chunks of one call share.
struct Call {
  KernelFn run;
  const void* args;
  int64_t scratch;
  std::mutex mutex;
  Status status;

  void chunk(Range range, int thread) {
    const Ctx ctx{scratch > 0 ? thread_scratch(scratch) : nullptr, thread};
    const Status result = run(args, range, ctx);
    if (result.code == StatusCode::kOk) [[likely]]
      return;
    // The refusal that a serial run would meet first is the one reported.
    std::lock_guard lock(mutex);
    if (status.code == StatusCode::kOk || result.index < status.index) status = result;
  }
};

// The coordinates of a flat index: "(3, 1)".
std::string coordinates(int64_t flat, const IndexPlace& place) {
  std::string text;
  for (int d = place.rank - 1; d >= 0; --d) {
    text.insert(0, std::to_string(flat % place.dims[d]) + (d == place.rank - 1 ? "" : ", "));
    flat /= place.dims[d];
  }
  return '(' + text + (place.rank == 1 ? ",)" : ")");
}

[[noreturn]] void refuse(const char* op, const Status& s) {
  if (s.code == StatusCode::kIndexOutOfRange) {
    const std::string where = s.place->rank > 0 ? " at position " + coordinates(s.index, *s.place) : "";
    if (s.place->unit)
      fail<OutOfRangeError>(op, "index ", s.value, where, " is out of range for ", s.limit, ' ', s.place->unit);
    fail<OutOfRangeError>(op, "index ", s.value, where, " is out of range for axis ", s.place->axis, " of size ",
                          s.limit);
  }
  if (s.code == StatusCode::kNotProbability)
    fail<ArgumentError>(op, std::bit_cast<double>(s.value), " at position ", s.index,
                        " is not in [0, 1]; expected probabilities");
  if (s.code == StatusCode::kSparsePointers)
    fail<ArgumentError>(op, "indptr must rise from 0 to the number of entries, ", s.limit, "; row ", s.index,
                        " ends at ", s.value);
  if (s.code == StatusCode::kSparseIndex)
    fail<ArgumentError>(op, "index ", s.value, " in row ", s.index, " is out of range for ", s.limit, " columns");
  if (s.code == StatusCode::kSparseOrder)
    fail<ArgumentError>(op, "indices of a row must rise, each column once; row ", s.index, " has ", s.value,
                        " after a larger or equal one; sparse.csr(a) and sparse.block(a) sort and add up");
  if (s.code == StatusCode::kBagOffset)
    fail<ArgumentError>(op, "offsets must begin with 0, never fall and stay within ", s.limit,
                        ", the number of indices, which with include_last_offset is the last of them; offset ", s.index,
                        " is ", s.value);
  if (s.code == StatusCode::kLengthOutOfRange)
    fail<ArgumentError>(op, "length ", s.value, " of row ", s.index, " is out of range, expected ", s.range->least,
                        " to ", s.range->most, ", the number of ", s.range->unit);
  if (s.code == StatusCode::kLabelIsBlank)
    fail<ArgumentError>(op, "label ", s.value, " in row ", s.index, " is the blank, which stands between labels only");
  fail<ArgumentError>(op, "label ", s.value, " at row ", s.index, " is out of range for ", s.limit,
                      " classes (labels count from 0 to ", s.limit - 1, ")");
}

}  // namespace

ResolvedKernel resolve(const char* op, KernelRef kernel, Device device) {
  ResolvedKernel resolved;
  Kernel<void> entry;
  std::memcpy(&entry, reinterpret_cast<const std::byte*>(&table_of(device)) + kernel.entry, sizeof(entry));
  if (!entry.run) [[unlikely]]
    fail<DeviceError>(op, "has no CUDA kernel in this version; move its tensors to the CPU with .to('cpu')");
  resolved.device = device;
  resolved.run = entry.run;
  resolved.scratch = entry.scratch;
  resolved.signature = entry.signature;
  return resolved;
}

static void execute_on_cuda(const char* op, const ResolvedKernel& kernel, const void* args, Work work,
                            bool interruptible) {
  if (interruptible) begin_poll_interval();
  if (interruptible && poll_due() && stop_requested()) throw Interrupted{};
  Profile* profile = Profile::current();
  if (profile) synchronize_cuda();
  const int64_t begin = profile ? now_ns() : 0;
  const Status status = run_on_cuda(op, kernel.run, kernel.scratch ? kernel.scratch(args) : 0, args, work.items);
  if (status.code != StatusCode::kOk) [[unlikely]]
    refuse(op, status);
  if (!profile) return;
  synchronize_cuda();
  profile->add(op, kernel, work, begin, now_ns());
}

void execute(const char* op, const ResolvedKernel& kernel, const void* args, Work work, bool interruptible) {
  if (work.items <= 0) return;
  if (kernel.device == Device::kCuda) return execute_on_cuda(op, kernel, args, work, interruptible);
  Profile* profile = Profile::current();
  const int64_t begin = profile ? now_ns() : 0;
  const FloatEnvironment environment;
  Call call{kernel.run, args, kernel.scratch ? kernel.scratch(args) : 0, {}, {}};
  const double total = work.ns_per_item * static_cast<double>(work.items);
  ThreadPool& pool = ThreadPool::instance();
  if (work.items == 1 || total < (pool.size() > 1 ? kForkNs : kChunkNs)) {
    call.chunk({0, work.items}, 0);
  } else {
    const auto by_time = static_cast<int64_t>(kChunkNs / std::max(work.ns_per_item, 1e-3));
    const int64_t by_balance = (work.items + pool.size() * kChunksPerThread - 1) / (pool.size() * kChunksPerThread);
    const int64_t grain = std::clamp<int64_t>(by_time, 1, by_balance);
    pool.run(
        [](void* c, int64_t begin, int64_t end, int thread) { static_cast<Call*>(c)->chunk({begin, end}, thread); },
        &call, work.items, grain, interruptible, work.ns_per_item * static_cast<double>(grain));
  }
  if (call.status.code != StatusCode::kOk) [[unlikely]]
    refuse(op, call.status);
  if (profile) profile->add(op, kernel, work, begin, now_ns());
}

void launch(const char* op, KernelRef kernel, void* args, Work work, std::initializer_list<Operand> operands) {
  Transaction* transaction = Transaction::current();
  std::optional<Device> device;
  bool writes_in_place = false;  // into what others can see: such a kernel is not stopped half-way
  for (const Operand& operand : operands) {
    const Tensor& t = *operand.tensor;
    if (!t.defined()) continue;
    check<DeviceError>(device.value_or(t.device()) == t.device(), op, "operands lie on 'cpu' and 'cuda'; move one of ",
                       "them with .to(device)");
    device = t.device();
    void* data = t.data();
    std::memcpy(static_cast<std::byte*>(args) + operand.field, &data, sizeof(data));
    work.bytes += static_cast<int64_t>(t.nbytes());
    if (operand.access == Access::kRead) continue;
    check<StateError>(!t.storage()->readonly(), op,
                      "cannot write into a read-only array; copy it first (qn.tensor copies)");
    writes_in_place |= t.version() != 0 || t.storage()->from_host();
    if (transaction) transaction->before_write(t);
  }
  Recorder* recorder = Recorder::current();
  if (recorder) recorder->note(op, kernel, args, work, operands);
  for (const Operand& operand : operands) {
    if (operand.access != Access::kRead && operand.tensor->defined()) operand.tensor->bump_version();
  }
  try {
    execute(op, resolve(op, kernel, device.value_or(Device::kCpu)), args, work, !writes_in_place);
  } catch (...) {
    // The caller may catch this and go another way than a replay would.
    if (recorder) recorder->abandon("an op was refused");
    throw;
  }
}

}  // namespace quernel
