// The process-wide thread pool. No OpenMP: its runtimes fight over threads, hang after fork and spin for ever.
//
// A call splits [0, items) into chunks of `grain`, claimed from one atomic counter by the caller and by workers. A
// worker that has claimed nothing is never waited for, so another process that keeps a core busy costs a share of
// the machine and not a scheduler quantum. Nested calls, and calls while another thread holds the pool, run serially
// on their caller. After fork the child starts with a fresh pool.
#pragma once
#include <cstdint>
#include <string>

namespace quernel {

// Thrown by ThreadPool::run when the interrupt poll asked to stop; no chunk is running any more.
struct Interrupted {};

class ThreadPool {
 public:
  // Runs chunk [begin, end) on thread `thread` (0 = the caller). If a chunk throws, the others are not begun, and
  // run() throws the first exception once no chunk is running any more.
  using Body = void (*)(void* context, int64_t begin, int64_t end, int thread);

  static ThreadPool& instance();

  int size() const;          // threads that work on a call, the caller included
  void resize(int threads);  // throws ArgumentError below 1, StateError from inside a call

  // `interruptible`: the caller polls for Ctrl-C between chunks (keep chunks below ~50 us). `chunk_ns`: how long a
  // chunk is expected to take; sleeping workers are woken for long ones at once, not after the caller's first.
  void run(Body body, void* context, int64_t items, int64_t grain, bool interruptible = true, double chunk_ns = 0);

  // Keeps workers that are awake spinning until the matching leave(), over the gaps between kernels of one model call.
  void enter();
  void leave();
};

// min(CPUs of this process, cgroup CPU quota, QUERNEL_NUM_THREADS); `reason` (may be null) is told which one decided.
int default_thread_count(const char** reason = nullptr);

// CPUs granted by cgroup quotas (v1 and v2, rounded up, the tightest of our group and those above it); 0 if there is
// no limit. `root` stands before the paths read, for tests.
int cgroup_cpu_limit(const std::string& root);

// Called on the thread that called run(), about every 20 ms of native work, while no chunk is running; true asks to
// stop. The poll may do as it likes: run Python code, launch kernels, fork.
void set_interrupt_poll(bool (*poll)());

// Scratch memory of the calling thread, 64-byte aligned, grown as needed and kept; throws std::bad_alloc.
void* thread_scratch(int64_t nbytes);

}  // namespace quernel
