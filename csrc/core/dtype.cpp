#include "core/dtype.h"

#include <cstring>
#include <iterator>

#include "core/error.h"

namespace quernel {
namespace {

struct Info {
  const char* name;
  size_t itemsize;
};

// In the order of DType.
constexpr Info kInfo[kDTypes] = {{"float32", 4}, {"float64", 8}, {"float16", 2}, {"bfloat16", 2}, {"int8", 1},
                                 {"uint8", 1},   {"int32", 4},   {"int64", 8},   {"bool", 1}};

}  // namespace

size_t itemsize(DType dtype) { return kInfo[static_cast<size_t>(dtype)].itemsize; }

const char* name(DType dtype) { return kInfo[static_cast<size_t>(dtype)].name; }

DType dtype_from_name(const char* name) {
  for (size_t i = 0; i < std::size(kInfo); ++i) {
    if (std::strcmp(kInfo[i].name, name) == 0) return static_cast<DType>(i);
  }
  fail<DTypeError>("dtype", "unknown dtype '", name,
                   "'; choose one of float32, float64, float16, bfloat16, int8, uint8, int32, int64, bool");
}

bool is_floating(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat64 || is_half(dtype); }

bool is_half(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

}  // namespace quernel
