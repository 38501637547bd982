// A call is published by storing the number of its chunks into `unclaimed_`; whoever decrements it from above zero
// owns a chunk. Claiming comes before reading the call's fields, and a call ends only when every claimed chunk is
// reported, so a worker that comes late (preempted between looking and claiming) gets a valid chunk of a newer call or
// nothing: no generation tags are needed, and no worker ever touches a finished call.
//
// Waking a parked thread costs the waker 5 to 40 us on a virtual machine (the interrupt to an idle CPU leaves the
// guest): more than many calls last. So nobody is woken before the first chunk has shown that enough work is left, or
// short calls in a row have added up to as much; the caller wakes one worker and that one wakes the next.
//
// A worker that finds that it was preempted shares its core with another program. It leaves itself out for some
// milliseconds, twice as long each time, for a chunk that it owns while preempted stalls the caller until the scheduler
// returns. That it was switched out does not suffice: waking the caller may do that, for the scheduler likes to run it
// on the waker's core.
#include "runtime/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

#include "core/error.h"
#include "runtime/float_env.h"
#include "runtime/interrupt.h"
#include "runtime/os_thread.h"

namespace quernel {
namespace {

constexpr int64_t kMicro = 1000, kMilli = 1000 * kMicro;
constexpr int64_t kSpinAfterCall = 50 * kMicro;  // a worker parks this long after it last saw work,
constexpr int64_t kSpinInCall = 100 * kMicro;   // this long if the rest of a call is in other hands (chunks are short),
constexpr int64_t kSpinInModel = 500 * kMicro;  // or this long between the kernels of a model call
constexpr int64_t kWorthWaking = 40 * kMicro;   // work left, or done alone, that pays for a wake-up
constexpr int64_t kLateChunk = 60 * kMicro;     // a caller waits actively this long for claimed chunks
constexpr int64_t kLateGap = 300 * kMicro;      // a gap in a spinning worker's time, or its caller's sleep: preempted
constexpr int64_t kLateWakeUp = 2 * kMilli;     // a wake-up that took this long: its core is busy
constexpr int64_t kLeaveOut = 4 * kMilli;       // how long a late worker is left out, at first;
constexpr int64_t kLeaveOutMax = 256 * kMilli;  // doubled up to this when it is late again
constexpr int64_t kForgotten = 20 * kMilli;     // within this time: a busy core would have shown by then
constexpr int64_t kSerialChunks = 8;            // chunks that a serial call runs at once
constexpr int64_t kMaxChunks = int64_t{1} << 30;

enum WorkerState : uint32_t { kUnborn, kAwake, kParked, kStopped };

thread_local bool t_in_chunk = false;
thread_local bool t_holds_pool = false;

// Sets a flag of this thread for a block.
class Marked {
 public:
  explicit Marked(bool& flag) : flag_(flag), before_(std::exchange(flag, true)) {}
  ~Marked() { flag_ = before_; }
  Marked(const Marked&) = delete;
  Marked& operator=(const Marked&) = delete;

 private:
  bool& flag_;
  bool before_;
};

struct Call {
  ThreadPool::Body body;
  void* context;
  int64_t items, grain, chunks;
  double chunk_ns;

  void run(int64_t begin, int64_t end, int thread) const { body(context, begin, std::min(end, items), thread); }
};

struct alignas(64) Worker {
  std::atomic<uint32_t> state{kUnborn};
  std::atomic<int64_t> woken_at{0};
  std::atomic<int64_t> left_out_until{0};
  std::thread thread;
  // Used by the worker alone.
  int64_t leave_out = kLeaveOut;
  int64_t switches = 0;
};

// Everything that a child process must forget.
class Pool {
 public:
  explicit Pool(int threads) { set_size(threads); }

  int size() const { return size_.load(std::memory_order_relaxed); }
  void resize(int threads);
  void run(const Call& call, bool interruptible);
  void enter() { models_.fetch_add(1, std::memory_order_relaxed); }
  void leave() {
    // A child forked in the middle of a model call never entered its own pool.
    if (models_.fetch_sub(1, std::memory_order_relaxed) <= 0) models_.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  void set_size(int threads);
  bool try_hold();
  void release();
  int64_t run_chunk(int64_t unclaimed, int thread);

  void run_shared(const Call& call, bool interruptible);
  int64_t claim_as_caller(bool interruptible, bool& poll);
  void wait_for_workers(int64_t chunks);
  void wake_one(int64_t now, bool may_start);
  void start(int index);

  void serve(Worker& worker, int index);
  void claim_as_worker(Worker& worker, int index);
  bool spin(Worker& worker);
  bool park(Worker& worker);
  void leave_out(Worker& worker, int64_t now);

  alignas(64) std::atomic<int64_t> unclaimed_{0};  // chunks of the call in progress; late claims push it below 0
  alignas(64) std::atomic<uint32_t> reported_{0};  // chunks of it that workers have run
  std::atomic<int64_t> caller_sleeps_since_{0};    // 0: it does not
  alignas(64) std::atomic<bool> held_{false};      // a call is in progress
  std::atomic<int> parked_{0};                     // workers that are parked or not yet started
  std::atomic<int> models_{0};                     // model calls in progress
  std::atomic<int> size_{1};

  // Written by the thread that holds the pool; workers read `call_` once they own a chunk.
  alignas(64) Call call_{};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  int64_t alone_ = 0, alone_until_ = 0;  // time worked while workers were parked, in calls close together
  std::unique_ptr<Worker[]> workers_;    // size - 1
};

void Pool::set_size(int threads) {
  workers_ = std::make_unique<Worker[]>(static_cast<size_t>(threads - 1));
  parked_.store(threads - 1, std::memory_order_relaxed);
  size_.store(threads, std::memory_order_relaxed);
}

bool Pool::try_hold() {
  if (held_.exchange(true, std::memory_order_acquire)) return false;
  t_holds_pool = true;
  return true;
}

void Pool::release() {
  t_holds_pool = false;
  held_.store(false, std::memory_order_release);
}

void Pool::resize(int threads) {
  check<StateError>(!t_in_chunk && !t_holds_pool, "set_num_threads", "cannot be called from inside a native call");
  while (!try_hold()) std::this_thread::yield();
  const int workers = size() - 1;
  for (int i = 0; i < workers; ++i) {
    workers_[i].state.store(kStopped);
    workers_[i].state.notify_all();
  }
  for (int i = 0; i < workers; ++i) {
    if (workers_[i].thread.joinable()) workers_[i].thread.join();
  }
  set_size(threads);
  release();
}

// Returns the chunks that are accounted for by this one: itself, and after a failure those that nobody will run.
int64_t Pool::run_chunk(int64_t unclaimed, int thread) {
  const int64_t begin = (call_.chunks - unclaimed) * call_.grain;
  try {
    call_.run(begin, begin + call_.grain, thread);
    return 1;
  } catch (...) {
    if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    return 1 + std::max<int64_t>(unclaimed_.exchange(0, std::memory_order_relaxed), 0);
  }
}

// ---- the caller's side ------------------------------------------------------------------------------------------

void Pool::run(const Call& call, bool interruptible) {
  const FloatEnvironment environment;
  if (interruptible) begin_poll_interval();
  if (call.chunks > 1 && size() > 1 && !t_in_chunk && try_hold()) {
    struct Release {
      Pool& pool;
      ~Release() { pool.release(); }
    } release{*this};
    run_shared(call, interruptible);
    return;
  }
  interruptible = interruptible && !t_in_chunk;  // the outer call polls
  const int64_t step = call.grain * kSerialChunks;
  for (int64_t begin = 0; begin < call.items; begin += step) {
    {
      const Marked in_chunk(t_in_chunk);
      call.run(begin, begin + step, 0);
    }
    if (interruptible && poll_due() && stop_requested()) throw Interrupted{};
  }
}

void Pool::run_shared(const Call& call, bool interruptible) {
  call_ = call;
  failed_.store(false, std::memory_order_relaxed);
  reported_.store(0, std::memory_order_relaxed);
  bool interrupted = false;
  for (int64_t own = 0, left = call.chunks; left > 0 && !interrupted;) {
    unclaimed_.store(left, std::memory_order_release);
    bool poll = false;
    own += claim_as_caller(interruptible, poll);
    // The poll may raise, fork or launch kernels: nothing is claimed or running meanwhile.
    left = poll ? std::max<int64_t>(unclaimed_.exchange(0, std::memory_order_relaxed), 0) : 0;
    wait_for_workers(call.chunks - left - own);
    interrupted = poll && stop_requested();
  }
  if (failed_.load(std::memory_order_relaxed)) [[unlikely]] {
    const std::exception_ptr error = std::exchange(error_, nullptr);
    if (!interrupted) std::rethrow_exception(error);
  }
  if (interrupted) throw Interrupted{};
}

// Runs chunks until none is left or a poll is due. Returns how many.
int64_t Pool::claim_as_caller(bool interruptible, bool& poll) {
  const Marked in_chunk(t_in_chunk);
  const int64_t started = parked_.load(std::memory_order_relaxed) > 0 ? now_ns() : 0;
  if (started != 0) {
    const int64_t burst_gap = models_.load(std::memory_order_relaxed) > 0 ? kSpinInModel : kSpinAfterCall;
    if (started - alone_until_ > burst_gap) alone_ = 0;
    if (call_.chunk_ns >= kWorthWaking) {
      for (int64_t i = 1; i < std::min<int64_t>(call_.chunks, size()); ++i) wake_one(started, true);
    }
  }
  int64_t own = 0, elapsed = 0;
  for (int64_t unclaimed; (unclaimed = unclaimed_.fetch_sub(1, std::memory_order_acquire)) > 0;) {
    own += run_chunk(unclaimed, 0);
    if (started != 0) {
      const int64_t now = now_ns(), left = unclaimed_.load(std::memory_order_relaxed);
      elapsed = now - started;
      if (left > 0 && (left * (elapsed / own) >= kWorthWaking || alone_ + elapsed >= kWorthWaking)) wake_one(now, true);
    }
    if (interruptible && poll_due()) [[unlikely]] {
      poll = true;
      break;
    }
  }
  if (started != 0) {
    alone_ += elapsed;
    alone_until_ = started + elapsed;
  }
  return own;
}

void Pool::wait_for_workers(int64_t chunks) {
  const auto missing = [this, chunks] { return reported_.load(std::memory_order_acquire) < chunks; };
  if (!missing()) return;
  for (const int64_t give_up = now_ns() + kLateChunk; now_ns() < give_up;) {
    for (int i = 0; i < 32; ++i) {
      if (!missing()) return;
      cpu_relax();
    }
  }
  // Sleeping frees this core: the scheduler moves a worker here that another program keeps from running.
  caller_sleeps_since_.store(now_ns());
  for (uint32_t seen; (seen = reported_.load()) < chunks;) reported_.wait(seen);
  caller_sleeps_since_.store(0);
}

void Pool::wake_one(int64_t now, bool may_start) {
  if (parked_.load(std::memory_order_relaxed) <= 0) return;
  for (int i = 0; i < size() - 1; ++i) {
    Worker& worker = workers_[i];
    if (worker.left_out_until.load(std::memory_order_relaxed) > now) continue;
    uint32_t state = worker.state.load(std::memory_order_relaxed);
    if (state == kUnborn && may_start) return start(i);
    if (state != kParked) continue;
    worker.woken_at.store(now, std::memory_order_relaxed);
    if (!worker.state.compare_exchange_strong(state, kAwake)) continue;
    parked_.fetch_sub(1, std::memory_order_relaxed);
    worker.state.notify_one();
    if (may_start) alone_ = 0;
    return;
  }
}

void Pool::start(int index) {
  Worker& worker = workers_[index];
  const SignalsBlocked blocked;
  worker.state.store(kAwake, std::memory_order_relaxed);
  try {
    worker.thread = std::thread([this, &worker, index] { serve(worker, index + 1); });
    parked_.fetch_sub(1, std::memory_order_relaxed);
  } catch (const std::exception&) {  // no more threads for this user: work with those there are, try again later
    worker.state.store(kUnborn, std::memory_order_relaxed);
    worker.left_out_until.store(now_ns() + 1000 * kMilli, std::memory_order_relaxed);
  }
}

// ---- the workers' side ------------------------------------------------------------------------------------------

void Pool::serve(Worker& worker, int index) {
  const FloatEnvironment environment;
  name_this_thread("quernel");
  worker.switches = involuntary_switches();
  do {
    claim_as_worker(worker, index);
  } while (spin(worker) || park(worker));
}

void Pool::claim_as_worker(Worker& worker, int index) {
  const Marked in_chunk(t_in_chunk);
  int64_t done = 0;
  bool brief = true;  // chunks: a caller that sleeps over one waits for no good reason
  for (int64_t unclaimed; (unclaimed = unclaimed_.fetch_sub(1, std::memory_order_acquire)) > 0;) {
    brief = call_.chunk_ns < kLateChunk;
    done += run_chunk(unclaimed, index);
  }
  if (done == 0) return;
  reported_.fetch_add(static_cast<uint32_t>(done));
  const int64_t since = caller_sleeps_since_.load();
  if (since == 0) [[likely]]
    return;
  const int64_t now = now_ns();
  if (brief && now - since > kLateGap && involuntary_switches() != worker.switches) leave_out(worker, now);
  reported_.notify_one();
  worker.switches = involuntary_switches();
}

// True once there is something to claim; false when the worker should park.
bool Pool::spin(Worker& worker) {
  const int64_t started = now_ns();
  for (int64_t last = started;;) {
    if (worker.left_out_until.load(std::memory_order_relaxed) > last) return false;
    for (int i = 0; i < 32; ++i) {
      if (unclaimed_.load(std::memory_order_relaxed) > 0) return true;
      cpu_relax();
    }
    const int64_t now = now_ns();
    if (now - last > kLateGap) leave_out(worker, now);
    last = now;
    const int64_t limit = held_.load(std::memory_order_relaxed)         ? kSpinInCall
                          : models_.load(std::memory_order_relaxed) > 0 ? kSpinInModel
                                                                        : kSpinAfterCall;
    if (now - started > limit) return false;
  }
}

// Sleeps until there is work; false when the worker should end.
bool Pool::park(Worker& worker) {
  for (;;) {
    parked_.fetch_add(1, std::memory_order_relaxed);
    uint32_t state = kAwake;
    if (!worker.state.compare_exchange_strong(state, kParked)) return false;
    worker.state.wait(kParked);
    if (worker.state.load() == kStopped) return false;
    const int64_t now = now_ns();
    if (now - worker.woken_at.load(std::memory_order_relaxed) < kLateWakeUp) {
      worker.switches = involuntary_switches();
      if (unclaimed_.load(std::memory_order_relaxed) > 1) wake_one(now, false);
      return true;
    }
    leave_out(worker, now);
  }
}

void Pool::leave_out(Worker& worker, int64_t now) {
  const int64_t last = worker.left_out_until.load(std::memory_order_relaxed);
  worker.leave_out = now - last > kForgotten ? kLeaveOut : std::min(2 * worker.leave_out, kLeaveOutMax);
  worker.left_out_until.store(now + worker.leave_out, std::memory_order_relaxed);
}

// ---- one pool per process ---------------------------------------------------------------------------------------

std::atomic<Pool*> g_pool{nullptr};  // never destroyed: threads may work until the process is gone
std::atomic<int> g_threads{0};       // as set by resize(); 0 = the default

void forget_pool() { g_pool.store(nullptr, std::memory_order_relaxed); }

Pool& pool() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current != nullptr) [[likely]]
    return *current;
  static std::atomic<bool> registered{false};
  if (!registered.exchange(true)) on_fork_in_child(forget_pool);
  const int threads = g_threads.load(std::memory_order_relaxed);
  auto fresh = std::make_unique<Pool>(threads > 0 ? threads : default_thread_count());
  if (g_pool.compare_exchange_strong(current, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
  return *current;
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool pool;
  return pool;
}

int ThreadPool::size() const { return pool().size(); }

void ThreadPool::resize(int threads) {
  check<ArgumentError>(threads >= 1, "set_num_threads", "at least one thread must work, got ", threads);
  pool().resize(threads);
  g_threads.store(threads, std::memory_order_relaxed);
}

void ThreadPool::run(Body body, void* context, int64_t items, int64_t grain, bool interruptible, double chunk_ns) {
  if (items <= 0) return;
  grain = std::max({grain, int64_t{1}, (items + kMaxChunks - 1) / kMaxChunks});
  pool().run({body, context, items, grain, (items + grain - 1) / grain, chunk_ns}, interruptible);
}

void ThreadPool::enter() { pool().enter(); }
void ThreadPool::leave() { pool().leave(); }

}  // namespace quernel
