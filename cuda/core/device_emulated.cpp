// Device memory is the host's. With QUERNEL_CUDA_GUARD=1 each block ends at an inaccessible page and is filled with
// NaN, so that an overrun or a read of unwritten memory shows.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/device.h"
#include "core/emulated.h"

namespace quernel::cuda {

extern const bool kEmulated = true;

namespace {

constexpr size_t kPage = 4096;

bool guarded() {
  static const bool chosen = std::getenv("QUERNEL_CUDA_GUARD") != nullptr;
  return chosen;
}

size_t body(size_t nbytes) { return (nbytes + kPage - 1) / kPage * kPage; }

}  // namespace

const char* device_open() { return nullptr; }

const char* device_describe(char* text, size_t size) {
  std::snprintf(text, size, "emulated on the CPU, for tests");
  return nullptr;
}

const char* device_allocate(void** data, size_t nbytes) {
  if (!guarded()) {
    *data = std::aligned_alloc(256, nbytes);
    return *data ? nullptr : "out of memory";
  }
  void* map = mmap(nullptr, body(nbytes) + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return "out of memory";
  auto* first = static_cast<std::byte*>(map);
  mprotect(first + body(nbytes), kPage, PROT_NONE);
  std::memset(first, 0xff, body(nbytes));
  *data = first + (body(nbytes) - nbytes);
  return nullptr;
}

void device_release(void* data, size_t nbytes) {
  if (guarded())
    munmap(static_cast<std::byte*>(data) - (body(nbytes) - nbytes), body(nbytes) + kPage);
  else
    std::free(data);
}

const char* device_upload(void* device, const void* host, size_t nbytes) {
  if (nbytes > 0) std::memcpy(device, host, nbytes);
  return nullptr;
}
const char* device_download(void* host, const void* device, size_t nbytes) {
  if (nbytes > 0) std::memcpy(host, device, nbytes);
  return nullptr;
}
const char* device_copy(void* to, const void* from, size_t nbytes) {
  if (nbytes > 0) std::memmove(to, from, nbytes);
  return nullptr;
}
const char* device_synchronize() { return nullptr; }
void* device_stream() { return nullptr; }
const char* device_launch_error() { return emulated::take_error(); }

}  // namespace quernel::cuda
