// The intrinsics of x86, as every header here includes them.
#pragma once
// GCC 12 warns of the deliberately undefined operands in its own header (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
