// A strip of rows times packed columns, all in bfloat16, as products and convolutions share it: the level's dot object,
// which leaves the sums in an L1 buffer of 32 x 64 floats (tiles can store nowhere else), and their way into the
// output.
#pragma once
#include "kernels/args/bf16.h"
#include "kernels/epilogue.h"
#include "kernels/integers.h"

#if defined(__AMX_BF16__) || defined(QUERNEL_AMX_EMULATED)
#include "kernels/amx/strip_dot_bf16.h"
#else
#include "kernels/simd/strip_dot_bf16.h"
#endif

namespace quernel::QUERNEL_ISA {
namespace {

#if defined(__AMX_BF16__) || defined(QUERNEL_AMX_EMULATED)
using StripDot = Bf16TileDot;
#else
using StripDot = Bf16RegisterDot;
#endif

// Sums of a strip become the result: c[r] are the places of its rows, from output channel `column` on.
inline void finish_strip(const Epilogue& epilogue, float* base, float* const* c, int rows, int cols, int64_t column,
                         const float* acc) {
  for (int r = 0; r < rows; ++r)
    __builtin_memcpy(c[r], acc + r * kBf16Columns, static_cast<size_t>(cols) * sizeof(float));
  finish(Finish<float>{&epilogue, base, c, rows, cols, column});
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
