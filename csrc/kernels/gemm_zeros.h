// A single row of A that holds many zeros, as it comes out of a ReLU.
#pragma once
#include "kernels/args/matmul.h"

namespace quernel::QUERNEL_ISA {

// Where a row has elements other than 0, in order; index = null if there are too many to gain by it.
struct Nonzeros {
  const int32_t* index = nullptr;
  int64_t count = 0;
};

// Looks for them in g's only row. The list lies in scratch, of nonzeros_scratch() bytes.
Nonzeros find_nonzeros(const GemmArgs& g, const float* a, void* scratch);
Nonzeros find_nonzeros(const GemmArgs& g, const double* a, void* scratch);
int64_t nonzeros_scratch(const GemmArgs& g);

// Columns [first, last) of the product, at most kPanel of them.
template <class T>
struct RowPart {
  const T* a;
  const T* b;
  T* c;
  int64_t first, last;
};

// False if the dense kernel must make the part.
bool multiply_nonzeros(const GemmArgs& g, const Nonzeros& row, const RowPart<float>& part);
bool multiply_nonzeros(const GemmArgs& g, const Nonzeros& row, const RowPart<double>& part);

}  // namespace quernel::QUERNEL_ISA
