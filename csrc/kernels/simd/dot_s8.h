// One register of int32 columns for the u8·s8 dot product, per level: DotS8 with
//   kWidth            columns of a register
//   kRows x kVectors  register tile that fits the register file
//   Weights load(b)   kWidth columns x 4 k from a packed panel
//   Inputs spread(x)  four u8 of one row, k in memory order, for every column
//   kWidens           whether rows that many panels read should be widened once: widen(x, k, out), 2 k bytes rounded up
//                     to 32, zeros at the end
//   spread_row(x)     spread of a row that is widened if kWidens; the next four k are kStep bytes on
//   split(x, k, out)  if kWidens: the same for one row alone, with Halves, dot_halves and add_halves
//   Sum dot(s, x, w)  s + sum over the four k, exact: nothing saturates, sums wrap
// and Requantizer, which turns sums into uint8. Selected by the compiler's own macros, so that the flags of a level
// decide.
#pragma once
#include "kernels/isa.h"

#if defined(__AVX512BW__)
#include "kernels/simd/dot_s8_avx512.h"
#elif defined(__AVX2__)
#include "kernels/simd/dot_s8_avx2.h"
#else
#include "kernels/simd/dot_s8_scalar.h"
#endif
