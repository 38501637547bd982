// Measures the engine itself: for bench/ and tests/, never on the way of a user's call.
#pragma once
#include <cstdint>
#include <vector>

namespace quernel {

// GFLOP/s of fused multiply-adds in registers, float32, at the active level: the best of several runs.
double fma_peak(int threads);

// Gigabytes a second, read and written, of threads that copy within `nbytes` of memory in all, again and again.
double copy_peak(int64_t nbytes, int threads);

// Nanoseconds of calls of `size()` empty chunks in which every thread took one, one call right after the other.
std::vector<double> fork_join_ns(int calls);

struct PoolCall {
  double ns;           // the whole call
  int64_t by_workers;  // chunks that the caller did not run itself
};

// Calls of `chunks` chunks of `chunk_ns` of arithmetic each, through the pool or in one loop, `pause_ns` apart (the
// caller waits actively; workers park meanwhile if it is long enough). `interruptible` as in ThreadPool::run.
std::vector<PoolCall> pool_calls(int calls, int64_t chunks, int64_t chunk_ns, int64_t pause_ns, bool serial,
                                 bool interruptible);

}  // namespace quernel
