// Where tensor memory comes from. The CPU allocator keeps freed blocks by size class: a training step allocates
// the same sizes again and again, and fresh pages cost more than the kernels that fill them.
#pragma once
#include <cstddef>

namespace quernel {

class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(size_t nbytes) = 0;  // 64-byte aligned; throws std::bad_alloc
  virtual void release(void* data, size_t nbytes) noexcept = 0;
  virtual void trim() noexcept = 0;  // gives cached blocks back to the system
};

// The process-wide CPU allocator. QUERNEL_DEBUG_ALLOC=guard puts every block against an inaccessible page and
// fills it with NaN patterns, so that an overrun or a read of unwritten memory shows at once.
Allocator& cpu_allocator();

}  // namespace quernel
