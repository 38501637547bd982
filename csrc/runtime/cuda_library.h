// The CUDA engine as the rest sees it: a shared library of its own (cuda/, distribution quernel-cuda13), loaded when
// `device="cuda"` is first asked for. It exports one function, quernel_cuda_library(), whose result says how it was
// built and how to reach the device; no CUDA header is needed here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/table.h"

namespace quernel {

// Functions return null, or a message that says what failed; it stays valid until the thread's next call.
struct CudaLibrary {
  const char* layout;   // QUERNEL_LAYOUT of the sources it was built from: a hash of all that both sides must agree on
  const char* version;  // of the package
  bool emulated;        // kernels run on the CPU, for tests
  const KernelTable* table;

  const char* (*open)();                             // looks for a driver and a device; again without effect
  const char* (*describe)(char* text, size_t size);  // device, architecture, driver
  const char* (*allocate)(void** data, size_t nbytes);
  void (*release)(void* data);
  void (*trim)();                    // gives cached blocks back to the device
  void (*allow_tf32)(bool allowed);  // products of float32, from the next launch on
  // Copies are ordered after all kernels before them. To and from the host they return once host memory may be reused
  // or read; that upload() failed may come out later, as launch_error().
  const char* (*upload)(void* device, const void* host, size_t nbytes);
  const char* (*download)(void* host, const void* device, size_t nbytes);
  const char* (*copy)(void* to, const void* from, size_t nbytes);  // within the device
  const char* (*synchronize)();
  void* (*stream)();                                   // for Ctx
  const char* (*wait)(void* stream, void* other);      // what `stream` does next waits for what `other` has begun
  const char* (*scratch)(void** data, size_t nbytes);  // of the stream: valid for the kernels launched next
  // Kernels launched in between are not run but become a graph. No memory is allocated or copied meanwhile.
  const char* (*begin_capture)();
  const char* (*end_capture)(void** graph);
  const char* (*launch_graph)(void* graph);
  void (*release_graph)(void* graph);
  const char* (*launch_error)();  // of the kernels launched by this thread since the last call
};

}  // namespace quernel
