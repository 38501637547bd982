// Scratch memory of one thread, for the kernels it runs.
#include <memory>
#include <new>

#include "runtime/thread_pool.h"

namespace quernel {

void* thread_scratch(int64_t nbytes) {
  constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlign); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local int64_t capacity = 0;
  if (nbytes > capacity) [[unlikely]] {
    buffer.reset();
    capacity = 0;
    buffer.reset(::operator new(static_cast<size_t>(nbytes), kAlign));
    capacity = nbytes;
  }
  return buffer.get();
}

}  // namespace quernel
