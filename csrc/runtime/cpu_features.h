// What this CPU and operating system support, as CpuFeature bits of kernels/isa.h.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/isa.h"

namespace quernel {

// CPUID and XGETBV; AMX bits only if the system grants permission to use tiles (asked for once).
uint32_t cpu_features();
std::string cpu_model();                       // "AMD EPYC …", or "unknown"
std::string feature_names(uint32_t features);  // "avx2 fma …"

}  // namespace quernel
