// Products of few rows with a B that is stored by columns and used once.
#pragma once
#include "kernels/args/matmul_narrow.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {

// At most: beside a turned half square of B, their sums stay in registers.
#if defined(__AVX512F__)
inline constexpr int kColumnsRows = 8;
#else
inline constexpr int kColumnsRows = 4;
#endif

// Columns [first, last) of the output; the batch is settled.
template <class T>
struct ColumnsPart {
  const T* a;
  const T* b;
  T* c;
  int64_t first, last;
};

inline bool is_by_columns(const GemmArgs& g) {
  return g.pack && g.b_row == 1 && g.m <= kColumnsRows && g.k > kShortDepth && !is_narrow(g);
}

int64_t columns_scratch(const GemmArgs& g, float);
int64_t columns_scratch(const GemmArgs& g, double);

void multiply_columns(const GemmArgs& g, const ColumnsPart<float>& part, void* scratch);
void multiply_columns(const GemmArgs& g, const ColumnsPart<double>& part, void* scratch);

}  // namespace quernel::QUERNEL_ISA
