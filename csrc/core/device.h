// Where memory lies and kernels run.
#pragma once
#include <cstdint>

namespace quernel {

enum class Device : uint8_t { kCpu, kCuda };

const char* name(Device device);            // "cpu", "cuda"
Device device_from_name(const char* name);  // throws DeviceError on another name

// Where this thread makes tensors that come from no other tensor.
Device default_device();
void set_default_device(Device device);

}  // namespace quernel
