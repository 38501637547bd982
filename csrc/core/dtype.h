// Element types of tensors. Item sizes and names are data, so that per-ISA objects that include this header
// emit no inline functions (see kernels/isa.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace quernel {

enum class DType : uint8_t { kFloat32, kFloat64, kFloat16, kBFloat16, kInt8, kUInt8, kInt32, kInt64, kBool };
inline constexpr size_t kDTypes = 9;

size_t itemsize(DType dtype);
const char* name(DType dtype);            // NumPy's name: "float32", …
DType dtype_from_name(const char* name);  // throws DTypeError on an unknown name
bool is_floating(DType dtype);
bool is_half(DType dtype);  // float16 or bfloat16, which few kernels take

}  // namespace quernel
