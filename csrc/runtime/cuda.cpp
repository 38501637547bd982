#include "runtime/cuda.h"

#include <dlfcn.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "core/allocator.h"
#include "core/error.h"

namespace quernel {
namespace {

std::atomic<const CudaLibrary*> loaded{nullptr};
std::atomic<bool> tf32{false};

void check_device(const char* op, const char* message) { check<StateError>(!message, op, "on CUDA: ", message); }

class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(const CudaLibrary& library) : library_(library) {}

  void* allocate(size_t nbytes) override {
    void* data = nullptr;
    if (library_.allocate(&data, nbytes)) throw OutOfMemory(nbytes, "device ");
    return data;
  }
  void release(void* data, size_t) noexcept override { library_.release(data); }
  void trim() noexcept override { library_.trim(); }
  void upload(void* to, const void* host, size_t nbytes) override {
    check_device("upload", library_.upload(to, host, nbytes));
  }
  void download(void* host, const void* from, size_t nbytes) override {
    check_device("download", library_.download(host, from, nbytes));
  }
  void copy(void* to, const void* from, size_t nbytes) override {
    check_device("copy", library_.copy(to, from, nbytes));
  }

 private:
  const CudaLibrary& library_;
};

const CudaLibrary& open(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) fail<DeviceError>("cuda", "the library cannot be loaded: ", dlerror());
  const auto entry = reinterpret_cast<const CudaLibrary* (*)()>(dlsym(handle, "quernel_cuda_library"));
  check<DeviceError>(entry != nullptr, "cuda", path, " is no CUDA library of quernel");
  const CudaLibrary& library = *entry();
  check<DeviceError>(std::strcmp(library.layout, QUERNEL_LAYOUT) == 0, "cuda", path, " (version ", library.version,
                     ") belongs to another version of quernel; install quernel-cuda13 of the same version");
  if (const char* reason = library.open()) fail<DeviceError>("cuda", reason);
  return library;
}

}  // namespace

void load_cuda(const std::string& path) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  if (loaded.load(std::memory_order_relaxed)) return;
  const CudaLibrary& library = open(path);
  // Never destroyed: tensors may outlive static destruction at interpreter exit.
  library.allow_tf32(tf32.load());
  set_cuda_allocator(*new CudaAllocator(library));
  loaded.store(&library, std::memory_order_release);
}

const CudaLibrary* cuda_library() { return loaded.load(std::memory_order_acquire); }

Status run_on_cuda(const char* op, KernelFn run, int64_t scratch_bytes, const void* args, int64_t items) {
  // One at a time: scratch memory belongs to the kernels that are launched next.
  static std::mutex& launching = *new std::mutex;
  std::lock_guard lock(launching);
  const CudaLibrary& library = *cuda_library();
  Ctx ctx{nullptr, 0, library.stream()};
  if (scratch_bytes > 0) check_device(op, library.scratch(&ctx.scratch, static_cast<size_t>(scratch_bytes)));
  const Status status = run(args, {0, items}, ctx);
  check_device(op, library.launch_error());
  return status;
}

void* cuda_stream() {
  check<DeviceError>(cuda_library() != nullptr, "cuda", "the CUDA library is not loaded");
  return cuda_library()->stream();
}

void wait_for_stream(void* stream, void* other) { check_device("wait", cuda_library()->wait(stream, other)); }

void allow_tf32(bool allowed) {
  tf32.store(allowed);
  if (const CudaLibrary* library = cuda_library()) library->allow_tf32(allowed);
}

bool tf32_allowed() { return tf32.load(); }

void synchronize_cuda() {
  if (const CudaLibrary* library = cuda_library()) check_device("synchronize", library->synchronize());
}

}  // namespace quernel
