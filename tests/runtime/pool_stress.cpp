// Random calls on the thread pool from several threads at once: nested, failing, interrupted, in model calls, while
// the pool changes its size and, with the second argument, while processes fork. Every item must be run exactly once.
// test_pool_stress.py compiles this with the pool's sources and ThreadSanitizer. Usage: pool_stress ROUNDS [fork].
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runtime/thread_pool.h"

namespace {

using quernel::Interrupted;
using quernel::ThreadPool;

std::atomic<long> by_workers{0};
std::atomic<int> polls{0};

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::abort();
}

struct Work {
  std::vector<int> seen;
  int spin;
  bool nested;
  int64_t throw_at = -1;

  static void body(void* context, int64_t begin, int64_t end, int thread) {
    Work& work = *static_cast<Work*>(context);
    by_workers += thread > 0;
    for (int64_t i = begin; i < end; ++i) {
      ++work.seen[static_cast<size_t>(i)];
      std::atomic<int> burn{0};
      while (burn.fetch_add(1, std::memory_order_relaxed) < work.spin) {
      }
      if (i == work.throw_at) throw std::runtime_error("refused");
    }
    if (!work.nested) return;
    Work inner{std::vector<int>(10), 0, false};
    ThreadPool::instance().run(body, &inner, 10, 1);
    inner.require_once();
  }

  void require_once() const {
    for (const int count : seen) require(count == 1, "an item was not run once");
  }
};

void random_call(std::mt19937& random) {
  ThreadPool& pool = ThreadPool::instance();
  const auto items = static_cast<int64_t>(1 + random() % 300), grain = static_cast<int64_t>(1 + random() % 20);
  Work work{std::vector<int>(static_cast<size_t>(items)), static_cast<int>(random() % 1500), random() % 10 == 0};
  if (random() % 20 == 0) work.throw_at = static_cast<int64_t>(random()) % items;
  const bool model = random() % 4 == 0;
  if (model) pool.enter();
  try {
    pool.run(Work::body, &work, items, grain);
    require(work.throw_at < 0, "an exception was lost");
    work.require_once();
  } catch (const std::runtime_error&) {
    require(work.throw_at >= 0, "an exception came from nowhere");
  } catch (const Interrupted&) {
  }
  if (model) pool.leave();
}

// A child does a few calls of its own. Returns whether this is the child.
bool fork_child(unsigned seed, bool leave) {
  const pid_t child = fork();
  if (child != 0) return false;
  alarm(60);
  std::mt19937 random(seed);
  for (int i = 0; i < 20; ++i) random_call(random);
  if (leave) _exit(0);
  return true;
}

bool interrupt_some() { return ++polls % 5 == 0; }
bool interrupt_and_fork() {
  const int count = ++polls;
  if (count % 7 == 0) fork_child(static_cast<unsigned>(count), true);
  return count % 5 == 0;
}

void caller(unsigned seed, int rounds) {
  std::mt19937 random(seed);
  for (int i = 0; i < rounds; ++i) {
    random_call(random);
    if (random() % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
    if (seed == 0 && random() % 300 == 0) ThreadPool::instance().resize(static_cast<int>(1 + random() % 5));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1000;
  const bool forks = argc > 2;
  ThreadPool::instance().resize(3);
  quernel::set_interrupt_poll(forks ? interrupt_and_fork : interrupt_some);
  caller(10, rounds);  // alone first: the pool is never held by another
  std::vector<std::thread> callers;
  for (unsigned seed = 0; seed < 3; ++seed) callers.emplace_back(caller, seed, rounds);
  for (unsigned i = 0; forks && i < 20; ++i) {
    fork_child(i, true);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (std::thread& thread : callers) thread.join();
  int status = 0;
  while (wait(&status) > 0) require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child failed");
  ThreadPool::instance().resize(1);
  require(polls > 0, "never polled");
  require(by_workers > 0, "no worker ever worked");
  return 0;
}
