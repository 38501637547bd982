#include "runtime/probe.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "runtime/dispatch.h"
#include "runtime/float_env.h"
#include "runtime/os_thread.h"
#include "runtime/thread_pool.h"

namespace quernel {
namespace {

// Arithmetic that takes a known time while nobody else uses the core: unlike a wait until a deadline it takes longer
// when the thread is preempted, as a kernel does.
void compute(int64_t rounds) {
  volatile double result = 1;
  double x = result;
  for (int64_t i = 0; i < rounds; ++i) x = x * 0.999999 + 1e-6;
  result = x;
}

// Not a static initialised under the compiler's lock: a child forked meanwhile would wait for it for ever.
double rounds_per_ns() {
  static std::atomic<double> known{0};
  if (const double rate = known.load(std::memory_order_relaxed); rate > 0) return rate;
  constexpr int64_t kRounds = 20000;
  int64_t best = INT64_MAX;
  for (int i = 0; i < 50; ++i) {
    const int64_t start = now_ns();
    compute(kRounds);
    best = std::min(best, now_ns() - start);
  }
  const double rate = static_cast<double>(kRounds) / static_cast<double>(best);
  known.store(rate, std::memory_order_relaxed);
  return rate;
}

void wait_actively(int64_t ns) {
  for (const int64_t end = now_ns() + ns; now_ns() < end;) cpu_relax();
}

}  // namespace

double fma_peak(int threads) {
  check<ArgumentError>(threads >= 1, "fma_peak", "at least one thread must work, got ", threads);
  constexpr int64_t kRounds = 2000, kItems = 1024;
  const KernelFn kernel = active_table().fma_peak.run;
  std::vector<float> y(static_cast<size_t>(2 * kItems));
  struct Job {
    KernelFn kernel;
    PeakArgs args;
  } job{kernel, {y.data(), kRounds}};
  const auto chunk = [](void* context, int64_t begin, int64_t end, int thread) {
    const Job& j = *static_cast<Job*>(context);
    j.kernel(&j.args, {begin, end}, {nullptr, thread});
  };
  int64_t best = INT64_MAX;
  for (int run = 0; run < 12; ++run) {
    const int64_t start = now_ns();
    if (threads == 1) {
      const FloatEnvironment environment;
      chunk(&job, 0, kItems, 0);
    } else {
      ThreadPool::instance().run(chunk, &job, kItems, 16);
    }
    best = std::min(best, now_ns() - start);
  }
  return static_cast<double>(y[1]) * kRounds * kItems / static_cast<double>(best);
}

double copy_peak(int64_t nbytes, int threads) {
  check<ArgumentError>(threads >= 1 && nbytes > 0, "copy_peak", "wants threads and bytes, got ", threads, " and ",
                       nbytes);
  struct Job {
    KernelFn kernel;
    std::vector<float>* memory;
    int64_t floats, blocks, rounds;
  } job{active_table().unary.run, nullptr, 0, 0, 0};
  // Of each thread's own part, one half is copied to the other.
  job.blocks = std::max<int64_t>(1, nbytes / threads / (2 * kElementBlock * static_cast<int64_t>(sizeof(float))));
  job.floats = job.blocks * kElementBlock;
  job.rounds = std::max<int64_t>(1, (int64_t{8} << 20) / job.floats);
  std::vector<float> memory(static_cast<size_t>(2 * threads * job.floats));
  job.memory = &memory;
  const auto copy = [](void* context, int64_t begin, int64_t end, int thread) {
    const Job& j = *static_cast<Job*>(context);
    for (int64_t part = begin; part < end; ++part) {
      UnaryArgs args;
      args.x = j.memory->data() + 2 * part * j.floats;
      args.y = j.memory->data() + (2 * part + 1) * j.floats;
      args.op = UnaryOp::kCopy;
      args.dtype = DType::kFloat32;
      args.size = j.floats;
      for (int64_t round = 0; round < j.rounds; ++round) j.kernel(&args, {0, j.blocks}, {nullptr, thread});
    }
  };
  int64_t best = INT64_MAX;
  for (int run = 0; run < 5; ++run) {
    const int64_t start = now_ns();
    if (threads == 1) {
      copy(&job, 0, 1, 0);
    } else {
      ThreadPool::instance().run(copy, &job, threads, 1);
    }
    best = std::min(best, now_ns() - start);
  }
  return 8.0 * static_cast<double>(threads * job.floats * job.rounds) / static_cast<double>(best);
}

std::vector<double> fork_join_ns(int calls) {
  ThreadPool& pool = ThreadPool::instance();
  // A chunk ends when all have begun, so every thread takes one; if a worker is kept away the call does not count.
  struct Meeting {
    int64_t size;
    std::atomic<int64_t> arrived{0};
    std::atomic<bool> complete{true};
  } meeting{pool.size()};
  const auto meet = [](void* context, int64_t, int64_t, int) {
    constexpr int64_t kPatience = 100'000;
    Meeting& m = *static_cast<Meeting*>(context);
    if (m.arrived.fetch_add(1) + 1 == m.size) return;
    const int64_t start = now_ns();
    while (m.arrived.load(std::memory_order_relaxed) < m.size) {
      if (now_ns() - start > kPatience) return m.complete.store(false);
      cpu_relax();
    }
  };
  std::vector<double> times;
  pool_calls(20, 4 * pool.size(), 20'000, 0, false, true);  // wakes the workers
  for (int i = 0; i < calls; ++i) {
    meeting.arrived.store(0);
    meeting.complete.store(true);
    const int64_t start = now_ns();
    pool.run(meet, &meeting, pool.size(), 1);
    const int64_t end = now_ns();
    if (meeting.complete.load()) times.push_back(static_cast<double>(end - start));
  }
  return times;
}

std::vector<PoolCall> pool_calls(int calls, int64_t chunks, int64_t chunk_ns, int64_t pause_ns, bool serial,
                                 bool interruptible) {
  struct Job {
    int64_t rounds;
    std::atomic<int64_t> by_workers{0};
  } job{static_cast<int64_t>(rounds_per_ns() * static_cast<double>(chunk_ns))};
  const auto chunk = [](void* context, int64_t begin, int64_t end, int thread) {
    Job& j = *static_cast<Job*>(context);
    for (int64_t i = begin; i < end; ++i) compute(j.rounds);
    if (thread != 0) j.by_workers.fetch_add(end - begin, std::memory_order_relaxed);
  };
  std::vector<PoolCall> results;
  for (int i = 0; i < calls; ++i) {
    wait_actively(pause_ns);
    job.by_workers.store(0, std::memory_order_relaxed);
    const int64_t start = now_ns();
    if (serial) {
      for (int64_t c = 0; c < chunks; ++c) chunk(&job, c, c + 1, 0);
    } else {
      ThreadPool::instance().run(chunk, &job, chunks, 1, interruptible);
    }
    results.push_back({static_cast<double>(now_ns() - start), job.by_workers.load(std::memory_order_relaxed)});
  }
  return results;
}

}  // namespace quernel
