#include <array>

#include "bindings/bindings.h"
#include "core/error.h"
#include "runtime/cuda.h"
#include "runtime/dispatch.h"

namespace quernel {
namespace {

std::string describe() {
  const CudaLibrary* library = cuda_library();
  check<DeviceError>(library != nullptr, "cuda", "the CUDA library is not loaded");
  std::array<char, 256> text{};
  if (const char* failed = library->describe(text.data(), text.size())) fail<DeviceError>("cuda", failed);
  return text.data();
}

void choose_default(const std::string& name) {
  const Device device = device_from_name(name.c_str());
  check<DeviceError>(device == Device::kCpu || cuda_library(), "device", "the CUDA library is not loaded");
  set_default_device(device);
}

}  // namespace

void register_cuda(py::module_& m) {
  m.def("load_cuda", &load_cuda, py::arg("path"), "Loads the CUDA library; DeviceError with the reason if it cannot.");
  m.def("cuda_loaded", [] { return cuda_library() != nullptr; });
  m.def("cuda_emulated", [] { return cuda_library() && cuda_library()->emulated; });
  m.def("cuda_device", &describe, "Device, architecture and driver.");
  m.def("cuda_synchronize", &synchronize_cuda, Unlocked(), "Waits for all kernels launched so far.");
  m.def("allow_tf32", &allow_tf32, py::arg("allowed"));
  m.def("tf32_allowed", &tf32_allowed);
  m.def("cuda_kernels", &cuda_kernels, "(kernel, whether CUDA has it) pairs.");
  m.def("default_device", [] { return name(default_device()); }, "Where this thread makes new tensors.");
  m.def("set_default_device", &choose_default, py::arg("device"));
}

}  // namespace quernel
