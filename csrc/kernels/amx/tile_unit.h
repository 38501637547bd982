// Eight tiles of 16 rows x 64 bytes behind one interface, TileUnit:
//   configure()             before the first use, and cheap to repeat: all tiles 16 x 64. TileUnit(keep) leaves it so
//                           (on workers of our pool), otherwise the destructor restores what the thread had
//   zero<T>, load<T>(rows, stride), store<T>(rows, stride)    always all 16 rows of 64 bytes, stride in bytes
//   dot_u8s8<C, A, B>       C (16 x 16 int32) += A (16 rows x 64 u8) · B (16 k-groups x 16 columns x 4 s8)
//   dot_bf16<C, A, B>       C (16 x 16 float) += A (16 rows x 32 bfloat16) · B (16 pairs of k x 16 columns x 2)
// At the amx level the bodies are instructions. At amx_emulated they are plain C++, so that everything built on tiles
// is tested on machines without them; that level is never chosen unless asked for by name.
#pragma once
#include "kernels/isa.h"

#if defined(__AMX_INT8__)
#include "kernels/amx/tile_unit_asm.h"
#else
#include "kernels/amx/tile_unit_emulated.h"
#endif
