// Arithmetic of sizes.
#pragma once
#include <cstdint>

namespace quernel::QUERNEL_ISA {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0

}  // namespace
}  // namespace quernel::QUERNEL_ISA
