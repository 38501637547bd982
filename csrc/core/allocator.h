// Where tensor memory comes from. The CPU allocator keeps freed blocks by size class: a training step allocates
// the same sizes again and again, and fresh pages cost more than the kernels that fill them.
#pragma once
#include <cstddef>
#include <cstdio>
#include <new>

#include "core/device.h"

namespace quernel {

class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(size_t nbytes) = 0;  // 64-byte aligned; throws OutOfMemory
  virtual void release(void* data, size_t nbytes) noexcept = 0;
  virtual void trim() noexcept = 0;  // gives cached blocks back to the system

  // Copies between host memory and this allocator's, and within the latter; after all kernels before them.
  virtual void upload(void* to, const void* host, size_t nbytes) = 0;
  virtual void download(void* host, const void* from, size_t nbytes) = 0;
  virtual void copy(void* to, const void* from, size_t nbytes) = 0;
};

// No memory; pybind11 makes a MemoryError of it.
class OutOfMemory final : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t nbytes, const char* kind = "") noexcept {
    std::snprintf(message_, sizeof message_, "[allocate] there is no %smemory for %zu bytes", kind, nbytes);
  }
  const char* what() const noexcept override { return message_; }

 private:
  char message_[80];  // making a string might fail now
};

// The process-wide allocator of a device. That of the CUDA device is set when its library is loaded, and for ever;
// until then DeviceError is thrown. On the CPU QUERNEL_DEBUG_ALLOC=guard puts every block against an inaccessible page
// and fills it with NaN patterns, so that an overrun or a read of unwritten memory shows at once.
Allocator& allocator(Device device);
void set_cuda_allocator(Allocator& allocator);

}  // namespace quernel
