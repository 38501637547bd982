// The floating-point environment that kernels run in: round to nearest, denormals kept, nothing trapped. A program
// may have set its own thread otherwise (flush to zero, another rounding); results must not depend on that, nor on
// which thread ran a chunk, and the program must find its setting unchanged afterwards.
#pragma once
#include <cstdint>

namespace quernel {

class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(read()) {
    if (saved_ != kDefault) [[unlikely]]
      write(kDefault);
  }
  ~FloatEnvironment() {
    if (saved_ != kDefault) [[unlikely]]
      write(saved_);
  }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kDefault = 0x1f80;  // MXCSR without its sticky exception flags
  static constexpr unsigned kFlags = 0x3f;
  static uint64_t read() { return __builtin_ia32_stmxcsr() & ~kFlags; }
  static void write(uint64_t control) {
    __builtin_ia32_ldmxcsr(static_cast<unsigned>(control) | (__builtin_ia32_stmxcsr() & kFlags));
  }
#elif defined(__aarch64__)
  static constexpr uint64_t kDefault = 0;  // FPCR
  static uint64_t read() {
    uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  static void write(uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
#else
  static constexpr uint64_t kDefault = 0;
  static uint64_t read() { return kDefault; }
  static void write(uint64_t) {}
#endif

  uint64_t saved_;
};

}  // namespace quernel
