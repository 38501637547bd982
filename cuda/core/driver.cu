// The device: memory, copies, the stream, and the table that the engine is given (csrc/runtime/cuda_library.h).
//
// Memory comes from the driver's pool, which other libraries share. Where it has none freed blocks are kept here, by
// size class, because asking for memory then waits for the device. A block may be handed out again at once: everything
// runs on one stream, in order.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "core/device.h"
#include "core/launch.h"
#include "runtime/cuda_library.h"

namespace quernel::cuda {

extern const KernelTable table;

namespace {

constexpr size_t kAlign = 256;

// Four classes per power of two: at most 25 % is wasted.
size_t class_size(size_t nbytes) {
  size_t unit = kAlign;
  while (unit * 8 <= nbytes) unit *= 2;
  return (nbytes < kAlign ? kAlign : nbytes + unit - 1) / unit * unit;
}

// Vectors of 16 bytes stay aligned.
size_t exact_size(size_t nbytes) { return nbytes < 16 ? 16 : (nbytes + 15) / 16 * 16; }

class Pool {
 public:
  const char* allocate(void** data, size_t nbytes) {
    const size_t size = device_keeps_blocks() ? class_size(nbytes) : exact_size(nbytes);
    std::lock_guard lock(mutex_);
    auto& blocks = free_[size];
    if (!blocks.empty()) {
      *data = blocks.back();
      blocks.pop_back();
    } else {
      const char* failed = device_allocate(data, size);
      if (failed) {
        drop_free();
        failed = device_allocate(data, size);
      }
      if (failed) return failed;
    }
    sizes_[*data] = size;
    return nullptr;
  }

  void release(void* data) {
    std::lock_guard lock(mutex_);
    const auto found = sizes_.find(data);
    if (device_keeps_blocks())
      free_[found->second].push_back(data);
    else
      device_release(data, found->second);
    sizes_.erase(found);
  }

  void trim() {
    std::lock_guard lock(mutex_);
    drop_free();
  }

 private:
  void drop_free() {
    for (auto& [size, blocks] : free_) {
      for (void* data : blocks) device_release(data, size);
      blocks.clear();
    }
    device_trim();
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  std::unordered_map<void*, size_t> sizes_;  // of the blocks in use
};

Pool& pool() {
  static Pool& made = *new Pool;  // never destroyed: blocks may come back at exit
  return made;
}

const char* allocate(void** data, size_t nbytes) { return pool().allocate(data, nbytes); }
void release(void* data) { pool().release(data); }
void trim() { pool().trim(); }

void* first_word = nullptr;  // of first_refused()

const char* open() {
  if (const char* failed = device_open()) return failed;
  return first_word ? nullptr : allocate(&first_word, sizeof(unsigned long long));
}

bool tf32_wanted = false;
void allow_tf32(bool allowed) { tf32_wanted = allowed; }

struct Scratch {
  void* data = nullptr;
  size_t size = 0;
};
Scratch scratch_memory;

// A smaller buffer stays where it is, for graphs that were captured with it: doubled each time, all of them are no
// larger than the last.
const char* scratch(void** data, size_t nbytes) {
  if (scratch_memory.size < nbytes) {
    if (nbytes < 2 * scratch_memory.size) nbytes = 2 * scratch_memory.size;
    void* larger = nullptr;
    if (const char* failed = allocate(&larger, nbytes)) return failed;
    scratch_memory = {larger, nbytes};
  }
  *data = scratch_memory.data;
  return nullptr;
}

const CudaLibrary library{
    .layout = QUERNEL_LAYOUT,
    .version = QUERNEL_VERSION,
    .emulated = kEmulated,
    .table = &table,
    .open = open,
    .describe = device_describe,
    .allocate = allocate,
    .release = release,
    .trim = trim,
    .allow_tf32 = allow_tf32,
    .upload = device_upload,
    .download = device_download,
    .copy = device_copy,
    .synchronize = device_synchronize,
    .stream = device_stream,
    .wait = device_wait,
    .scratch = scratch,
    .begin_capture = device_begin_capture,
    .end_capture = device_end_capture,
    .launch_graph = device_launch_graph,
    .release_graph = device_release_graph,
    .launch_error = device_launch_error,
};

}  // namespace

// Errors surface at the next launch_error().
void copy_to_host(const Ctx&, void* host, const void* device, size_t nbytes) { device_download(host, device, nbytes); }
void copy_from_host(const Ctx&, void* device, const void* host, size_t nbytes) { device_upload(device, host, nbytes); }

bool uses_tf32() { return tf32_wanted && device_capability() >= 80; }

unsigned long long* status_word() { return static_cast<unsigned long long*>(first_word); }

}  // namespace quernel::cuda

extern "C" __attribute__((visibility("default"))) const quernel::CudaLibrary* quernel_cuda_library() {
  return &quernel::cuda::library;
}
