#include "runtime/os_thread.h"

#include <chrono>
#include <cstring>

#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quernel {

int64_t now_ns() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

int64_t coarse_now_ns() {
#if defined(CLOCK_MONOTONIC_COARSE)
  timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
#else
  return now_ns();
#endif
}

int64_t involuntary_switches() {
#if defined(RUSAGE_THREAD)
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
#else
  return 0;
#endif
}

bool is_main_thread() {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#else
  return true;
#endif
}

void name_this_thread([[maybe_unused]] const char* name) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), name);
#endif
}

#if defined(_WIN32)

void on_fork_in_child(void (*)()) {}
SignalsBlocked::SignalsBlocked() {}
SignalsBlocked::~SignalsBlocked() {}

#else

void on_fork_in_child(void (*handler)()) { pthread_atfork(nullptr, nullptr, handler); }

SignalsBlocked::SignalsBlocked() {
  static_assert(sizeof(sigset_t) <= sizeof(saved_));
  sigset_t all, saved;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &saved);
  std::memcpy(saved_, &saved, sizeof(saved));
}

SignalsBlocked::~SignalsBlocked() {
  sigset_t saved;
  std::memcpy(&saved, saved_, sizeof(saved));
  pthread_sigmask(SIG_SETMASK, &saved, nullptr);
}

#endif

}  // namespace quernel
