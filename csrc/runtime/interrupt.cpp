#include "runtime/interrupt.h"

#include <atomic>
#include <cstdint>

#include "runtime/os_thread.h"
#include "runtime/thread_pool.h"

namespace quernel {
namespace {

constexpr int64_t kPollInterval = 20'000'000;  // ns
constexpr int64_t kPause = 8'000'000;          // without native work, above the coarse clock's resolution

std::atomic<bool (*)()> g_poll{nullptr};
thread_local int64_t t_last_poll = 0;
thread_local int64_t t_last_work = 0;

}  // namespace

void set_interrupt_poll(bool (*poll)()) { g_poll.store(poll, std::memory_order_relaxed); }

bool poll_due() {
  const int64_t now = t_last_work = coarse_now_ns();
  if (now - t_last_poll < kPollInterval) [[likely]]
    return false;
  t_last_poll = now;
  return g_poll.load(std::memory_order_relaxed) != nullptr;
}

void begin_poll_interval() {
  const int64_t now = coarse_now_ns();
  if (now - t_last_work > kPause) t_last_poll = now;
  t_last_work = now;
}

bool stop_requested() {
  const auto poll = g_poll.load(std::memory_order_relaxed);
  return poll != nullptr && poll();
}

}  // namespace quernel
