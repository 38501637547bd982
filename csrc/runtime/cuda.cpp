#include "runtime/cuda.h"

#include <dlfcn.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "core/allocator.h"
#include "core/error.h"
#include "runtime/dispatch.h"
#include "runtime/os_thread.h"

namespace quernel {
namespace {

std::atomic<const CudaLibrary*> loaded{nullptr};
std::atomic<bool> tf32{false};
std::atomic<bool> forked{false};

void check_device(const char* op, const char* message) { check<StateError>(!message, op, "on CUDA: ", message); }

const CudaLibrary& usable(const char* op) {
  check_cuda_process(op);
  return *cuda_library();
}

class CudaAllocator final : public Allocator {
 public:
  void* allocate(size_t nbytes) override {
    const CudaLibrary& library = usable("allocate");
    const CudaLock lock;
    void* data = nullptr;
    if (library.allocate(&data, nbytes)) throw OutOfMemory(nbytes, "device ");
    return data;
  }
  void release(void* data, size_t) noexcept override {
    if (!forked) cuda_library()->release(data);
  }
  void trim() noexcept override {
    if (forked) return;
    const CudaLock lock;
    cuda_library()->trim();
  }
  void upload(void* to, const void* host, size_t nbytes) override {
    const CudaLibrary& library = usable("upload");
    const CudaLock lock;
    check_device("upload", library.upload(to, host, nbytes));
  }
  void download(void* host, const void* from, size_t nbytes) override {
    const CudaLibrary& library = usable("download");
    const CudaLock lock;
    check_device("download", library.download(host, from, nbytes));
  }
  void copy(void* to, const void* from, size_t nbytes) override {
    const CudaLibrary& library = usable("copy");
    const CudaLock lock;
    check_device("copy", library.copy(to, from, nbytes));
  }
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
  {
    const CudaLock lock;
    library.allow_tf32(tf32.load());
    loaded.store(&library, std::memory_order_release);
  }
  set_cuda_allocator(*new CudaAllocator);  // never destroyed: tensors may outlive static destruction at exit
  on_fork_in_child([] { forked = true; });
}

const CudaLibrary* cuda_library() { return loaded.load(std::memory_order_acquire); }

// A driver's state does not survive a fork.
void check_cuda_process(const char* op) {
  check<DeviceError>(!forked.load(std::memory_order_relaxed), op,
                     "CUDA was used before this process was forked and does not work here; start processes with the "
                     "method 'spawn' of multiprocessing, or use CUDA after the fork only");
}

CudaLock::CudaLock()
    : held_([]() -> std::recursive_mutex& {
        static std::recursive_mutex& mutex = *new std::recursive_mutex;  // never destroyed: memory comes back at exit
        return mutex;
      }()) {}

Status run_on_cuda(const char* op, KernelFn run, int64_t scratch_bytes, const void* args, int64_t items) {
  const CudaLibrary& library = usable(op);
  const CudaLock lock;
  Ctx ctx{nullptr, 0, library.stream()};
  if (scratch_bytes > 0) check_device(op, library.scratch(&ctx.scratch, static_cast<size_t>(scratch_bytes)));
  const Status status = run(args, {0, items}, ctx);
  check_device(op, library.launch_error());
  return status;
}

bool begin_capture() { return !cuda_library()->begin_capture(); }

void* end_capture() {
  void* graph = nullptr;
  return cuda_library()->end_capture(&graph) ? nullptr : graph;
}

void launch_graph(void* graph) {
  const CudaLibrary& library = usable("replay");
  check_device("replay", library.launch_graph(graph));
  check_device("replay", library.launch_error());
}

void release_graph(void* graph) noexcept {
  if (forked) return;
  const CudaLock lock;
  cuda_library()->release_graph(graph);
}

void* cuda_stream() {
  check<DeviceError>(cuda_library() != nullptr, "cuda", "the CUDA library is not loaded");
  const CudaLibrary& library = usable("cuda");
  const CudaLock lock;
  return library.stream();
}

void wait_for_stream(void* stream, void* other) {
  const CudaLibrary& library = usable("wait");
  const CudaLock lock;
  check_device("wait", library.wait(stream, other));
}

void allow_tf32(bool allowed) {
  if (cuda_library()) check_cuda_process("allow_tf32");
  const CudaLock lock;
  if (tf32.exchange(allowed) == allowed) return;
  if (const CudaLibrary* library = cuda_library()) library->allow_tf32(allowed);
  bump_isa_epoch();  // graphs hold the kernels of before
}

bool tf32_allowed() { return tf32.load(); }

void synchronize_cuda() {
  if (!cuda_library()) return;
  const CudaLibrary& library = usable("synchronize");
  const CudaLock lock;
  check_device("synchronize", library.synchronize());
}

}  // namespace quernel
