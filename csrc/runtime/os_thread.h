// What the thread pool asks of the operating system beyond std::thread.
#pragma once
#include <cstdint>

namespace quernel {

// Monotonic time: exact (~25 ns a call), and cheap (~5 ns) with the resolution of the system's tick.
int64_t now_ns();
int64_t coarse_now_ns();

// How often the system has taken the CPU from the calling thread; 0 where it does not tell.
int64_t involuntary_switches();

// False on threads that were started by this process; true where the system does not tell.
bool is_main_thread();

void name_this_thread(const char* name);

// Runs `handler` in every child after fork(); it must not lock or allocate.
void on_fork_in_child(void (*handler)());

// Threads started while this lives receive no signals: Ctrl-C belongs to the program's own threads.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  alignas(16) unsigned char saved_[128];  // sigset_t
};

// A moment's rest in a spin loop.
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace quernel
