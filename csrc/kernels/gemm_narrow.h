// Matrix products of few columns; see args/matmul_narrow.h.
#pragma once
#include "kernels/args/matmul_narrow.h"

namespace quernel::QUERNEL_ISA {

// `rows` rows of the output from `c` on, of A from `a` on; the batch is settled.
template <class T>
struct NarrowRows {
  const T* a;
  const T* b;
  T* c;
  int64_t rows;
};

void multiply_narrow(const GemmArgs& g, const NarrowRows<float>& part, void* scratch);
void multiply_narrow(const GemmArgs& g, const NarrowRows<double>& part, void* scratch);

int64_t narrow_scratch(const GemmArgs& g, float);
int64_t narrow_scratch(const GemmArgs& g, double);

}  // namespace quernel::QUERNEL_ISA
