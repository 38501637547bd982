#include "runtime/thread_pool.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/error.h"

namespace quernel {
namespace {

std::atomic<bool (*)()> g_poll{nullptr};

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool pool;
  return pool;
}

int ThreadPool::size() const { return 1; }

void ThreadPool::resize(int threads) {
  check<ValueError>(threads >= 1, "set_num_threads", "needs at least 1 thread, got ", threads);
}

void ThreadPool::run(Body body, void* context, int64_t items, int64_t grain, bool interruptible) {
  for (int64_t begin = 0; begin < items; begin += grain) {
    body(context, begin, begin + grain < items ? begin + grain : items, 0);
    const auto poll = g_poll.load(std::memory_order_acquire);
    if (interruptible && poll != nullptr && poll()) throw Interrupted{};
  }
}

void ThreadPool::enter() {}
void ThreadPool::leave() {}

int default_thread_count(const char** reason) {
  if (reason != nullptr) *reason = "serial";
  return 1;
}

void set_interrupt_poll(bool (*poll)()) { g_poll.store(poll, std::memory_order_release); }

void* thread_scratch(int64_t nbytes) {
  constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlign); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local int64_t capacity = 0;
  if (nbytes > capacity) {
    buffer.reset();
    capacity = 0;
    buffer.reset(::operator new(static_cast<size_t>(nbytes), kAlign));
    capacity = nbytes;
  }
  return buffer.get();
}

}  // namespace quernel
