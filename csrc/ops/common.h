// What many ops need: checks of operands, and element-wise work.
#pragma once
#include "core/dtype.h"
#include "core/error.h"
#include "core/tensor.h"
#include "kernels/args/common.h"
#include "runtime/launch.h"

namespace quernel::ops {

inline void check_floating(const char* op, const char* what, DType dtype) {
  check<DTypeError>(dtype == DType::kFloat32 || dtype == DType::kFloat64, op, what, " must be float32 or float64, is ",
                    name(dtype), "; cast to one of them");
}

inline void check_not_half(const char* op, DType dtype) {
  check<UnsupportedError>(!is_half(dtype), op, "has no ", name(dtype), " kernel; cast to float32 first");
}

inline void check_like(const char* op, const char* what, const Tensor& t, const Shape& shape, DType dtype) {
  check<ShapeError>(t.shape() == shape, op, what, " expects shape ", shape, ", is ", t.shape());
  check<DTypeError>(t.dtype() == dtype, op, what, " expects ", name(dtype), ", is ", name(t.dtype()));
}

inline constexpr int64_t kBusyItems = 8;  // of a launch: enough for any balance on few cores

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Work of kernels whose items are blocks of kElementBlock elements.
inline Work element_blocks(int64_t size, double ns_per_element) {
  return {ceil_div(size, kElementBlock), ns_per_element * static_cast<double>(kElementBlock)};
}

}  // namespace quernel::ops
