// The ISA level this object is compiled for. CMake defines QUERNEL_ISA (scalar, avx2, avx512, vnni, bf16, amx …) and
// the -m flags; kernels live in namespace quernel::QUERNEL_ISA.
//
// Rules for sources in kernels/: helpers in an anonymous namespace; no STL containers, no exceptions, no allocation,
// no static initialisers. An inline function with external linkage emitted here could be kept by the linker for
// everyone and crash an older CPU; tests/test_isa_objects.py refuses weak symbols.
#pragma once
#include <cstdint>

namespace quernel {

// CPU features a table needs, as bits of runtime/cpu_features.h.
enum CpuFeature : uint32_t {
  kCpuAvx2 = 1u << 0,
  kCpuFma = 1u << 1,
  kCpuF16c = 1u << 2,
  kCpuBmi2 = 1u << 3,
  kCpuAvx512f = 1u << 4,
  kCpuAvx512bw = 1u << 5,
  kCpuAvx512vl = 1u << 6,
  kCpuAvx512dq = 1u << 7,
  kCpuAvx512cd = 1u << 8,
  kCpuAvx512vnni = 1u << 9,
  kCpuAvx512bf16 = 1u << 10,
  kCpuAmxTile = 1u << 11,
  kCpuAmxInt8 = 1u << 12,
  kCpuAmxBf16 = 1u << 13,
};

#ifdef QUERNEL_ISA
// Taken from the compiler's own macros, so that flags and detection cannot drift apart.
inline constexpr uint32_t kRequiredFeatures = 0
#ifdef __AVX2__
                                              | kCpuAvx2
#endif
#ifdef __FMA__
                                              | kCpuFma
#endif
#ifdef __F16C__
                                              | kCpuF16c
#endif
#ifdef __BMI2__
                                              | kCpuBmi2
#endif
#ifdef __AVX512F__
                                              | kCpuAvx512f
#endif
#ifdef __AVX512BW__
                                              | kCpuAvx512bw
#endif
#ifdef __AVX512VL__
                                              | kCpuAvx512vl
#endif
#ifdef __AVX512DQ__
                                              | kCpuAvx512dq
#endif
#ifdef __AVX512CD__
                                              | kCpuAvx512cd
#endif
#ifdef __AVX512VNNI__
                                              | kCpuAvx512vnni
#endif
#ifdef __AVX512BF16__
                                              | kCpuAvx512bf16
#endif
#ifdef __AMX_TILE__
                                              | kCpuAmxTile
#endif
#ifdef __AMX_INT8__
                                              | kCpuAmxInt8
#endif
#ifdef __AMX_BF16__
                                              | kCpuAmxBf16
#endif
    ;

// The level amx_emulated: kernels for tiles, on tiles in plain C++ (kernels/amx/tile_unit.h).
#ifdef QUERNEL_AMX_EMULATED
inline constexpr bool kEmulatedTiles = true;
#else
inline constexpr bool kEmulatedTiles = false;
#endif

// Levels that multiply bytes without widening them; dots_bytes() says so of the active one.
#if defined(__AVX512VNNI__) || defined(QUERNEL_AMX_EMULATED)
inline constexpr bool kDotLevel = true;
#else
inline constexpr bool kDotLevel = false;
#endif
#endif

}  // namespace quernel
