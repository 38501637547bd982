// The CUDA device: its library, loaded on demand, its memory, and running kernels there.
#pragma once
#include <mutex>
#include <string>

#include "runtime/cuda_library.h"

namespace quernel {

// Loads the library at `path`, once; throws DeviceError with the reason if it cannot be used.
void load_cuda(const std::string& path);
const CudaLibrary* cuda_library();  // null until it is loaded

// Runs a kernel of its table on the stream. Refusals come back as a status; throws StateError where the device fails.
Status run_on_cuda(const char* op, KernelFn run, int64_t scratch_bytes, const void* args, int64_t items);
void synchronize_cuda();

// Throws DeviceError in a process that was forked from one that used CUDA. Before a CudaLock, which may be held for
// ever.
void check_cuda_process(const char* op);

// While one lives no other thread launches or copies: scratch memory belongs to the kernels that are launched next, and
// a capture takes whatever the stream is given. May be nested.
class CudaLock {
 public:
  CudaLock();

 private:
  std::unique_lock<std::recursive_mutex> held_;
};

// Kernels launched in between become a graph; false and null if the driver refuses. With a CudaLock.
bool begin_capture();
void* end_capture();
void launch_graph(void* graph);
void release_graph(void* graph) noexcept;

void* cuda_stream();                              // that kernels run on
void wait_for_stream(void* stream, void* other);  // what `stream` does next waits for what `other` has begun

// Whether products of float32 may round their operands to tf32: no, unless this says so. For all threads.
void allow_tf32(bool allowed);
bool tf32_allowed();

}  // namespace quernel
