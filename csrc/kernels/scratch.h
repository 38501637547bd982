// A thread's scratch memory, piece by piece.
#pragma once
#include <cstddef>

#include "kernels/integers.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Deals out pieces from `at` on, each on a cache line of its own; with at = null it only measures them.
class Carver {
 public:
  explicit Carver(void* at) : at_(static_cast<std::byte*>(at)) {}

  template <class T>
  void take(T*& piece, int64_t count) {
    constexpr int64_t kLine = 64;
    if (at_) piece = reinterpret_cast<T*>(at_ + used_);
    used_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), kLine) * kLine;
  }

  bool measures() const { return !at_; }
  int64_t used() const { return used_; }

 private:
  std::byte* at_;
  int64_t used_ = 0;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
