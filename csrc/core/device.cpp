#include "core/device.h"

#include <cstring>

#include "core/error.h"

namespace quernel {
namespace {
thread_local Device thread_default = Device::kCpu;
}

const char* name(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

Device device_from_name(const char* name) {
  for (const Device device : {Device::kCpu, Device::kCuda}) {
    if (std::strcmp(name, quernel::name(device)) == 0) return device;
  }
  fail<DeviceError>("device", "unknown device '", name, "'; there are 'cpu' and 'cuda'");
}

Device default_device() { return thread_default; }
void set_default_device(Device device) { thread_default = device; }

}  // namespace quernel
