// Device memory is the host's. With QUERNEL_CUDA_GUARD=1 each block ends at an inaccessible page, is filled with NaN
// and unmapped when it is freed, so that an overrun, a read of unwritten memory and a use after the end show. Where the
// CPU has protection keys, host code that follows a device pointer is stopped as well: only kernels and copies may.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/device.h"
#include "core/emulated.h"
#include "core/tma.h"

namespace quernel::cuda {

extern const bool kEmulated = true;

namespace {

constexpr size_t kPage = 4096;
constexpr const char* kCopyInGraph = "the host copies while a graph is captured";

bool guarded() {
  static const bool chosen = is_switched_on("QUERNEL_CUDA_GUARD");
  return chosen;
}

// The key of all device memory, or -1: not guarded, or no such CPU. Rights belong to a thread; others begin without
// any.
int protection_key() {
  static const int key = guarded() ? pkey_alloc(0, PKEY_DISABLE_ACCESS) : -1;
  return key;
}

size_t body(size_t nbytes) { return (nbytes + kPage - 1) / kPage * kPage; }

}  // namespace

bool device_keeps_blocks() { return !guarded(); }

const char* device_open() { return nullptr; }

const char* device_describe(char* text, size_t size) {
  std::snprintf(text, size, "emulated on the CPU, for tests");
  return nullptr;
}

// A small device: large tiles are tried at sizes that tests can afford.
int device_capability() { return 90; }
int device_multiprocessors() { return 4; }
bool device_has_warpgroups() { return true; }

bool device_encode(TensorMap* map, const void* data, int64_t words, int64_t rows, int64_t row_bytes, int tile_rows) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || row_bytes % 16 != 0 || tile_rows > 256) {
    emulated::fail("a matrix cannot be copied by tiles");
    return false;
  }
  const EmulatedMap made{static_cast<const unsigned char*>(data), words, rows, row_bytes, tile_rows};
  std::memcpy(map->bytes, &made, sizeof made);
  return true;
}

bool device_encode_pixels(TensorMap* map, const void* data, const PixelGrid& grid, int tile_pixels) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || grid.words % 4 != 0 || tile_pixels > 1024 ||
      !grid.down.is_within(0) || !grid.across.is_within(0)) {
    emulated::fail("images cannot be copied by tiles");
    return false;
  }
  const EmulatedPixels made{static_cast<const unsigned char*>(data), grid, tile_pixels};
  std::memcpy(map->bytes, &made, sizeof made);
  return true;
}

const char* device_allocate(void** data, size_t nbytes) {
  if (!guarded()) {
    *data = std::aligned_alloc(256, nbytes);
    return *data ? nullptr : "out of memory";
  }
  const size_t size = body(nbytes);
  void* map = mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return "out of memory";
  auto* first = static_cast<std::byte*>(map);
  std::memset(first, 0xff, size);
  const bool closed = protection_key() < 0 || pkey_mprotect(first, size, PROT_READ | PROT_WRITE, protection_key()) == 0;
  if (!closed || mprotect(first + size, kPage, PROT_NONE) != 0) {
    munmap(map, size + kPage);
    return "out of memory";
  }
  *data = first + (size - nbytes);
  return nullptr;
}

void device_release(void* data, size_t nbytes) {
  if (guarded())
    munmap(static_cast<std::byte*>(data) - (body(nbytes) - nbytes), body(nbytes) + kPage);
  else
    std::free(data);
}

void device_trim() {}

const char* device_upload(void* device, const void* host, size_t nbytes) {
  if (emulated::capturing()) return kCopyInGraph;
  const emulated::MemoryAccess access;
  if (nbytes > 0) std::memcpy(device, host, nbytes);
  return nullptr;
}
const char* device_download(void* host, const void* device, size_t nbytes) {
  if (emulated::capturing()) return kCopyInGraph;
  const emulated::MemoryAccess access;
  if (nbytes > 0) std::memcpy(host, device, nbytes);
  return nullptr;
}
const char* device_copy(void* to, const void* from, size_t nbytes) {
  const emulated::MemoryAccess access;
  if (nbytes > 0) std::memmove(to, from, nbytes);
  return nullptr;
}
const char* device_synchronize() { return nullptr; }
void* device_stream() { return nullptr; }
const char* device_wait(void*, void*) { return nullptr; }

const char* device_begin_capture() {
  emulated::begin_capture();
  return nullptr;
}
const char* device_end_capture(void** graph) {
  *graph = new emulated::Graph(emulated::end_capture());
  return nullptr;
}
const char* device_launch_graph(void* graph) {
  for (const auto& launch : *static_cast<emulated::Graph*>(graph)) launch();
  return nullptr;
}
void device_release_graph(void* graph) { delete static_cast<emulated::Graph*>(graph); }

const char* device_launch_error() { return emulated::take_error(); }

}  // namespace quernel::cuda

namespace quernel::emulated {

MemoryAccess::MemoryAccess() {
  if (cuda::protection_key() >= 0) pkey_set(cuda::protection_key(), 0);
}
MemoryAccess::~MemoryAccess() {
  if (cuda::protection_key() >= 0) pkey_set(cuda::protection_key(), PKEY_DISABLE_ACCESS);
}

}  // namespace quernel::emulated
