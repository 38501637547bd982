// What a kernel does to its values before they are its result.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel::QUERNEL_ISA {

// Rows of raw accumulators in the output: c[i][j] for i < rows, j < cols become activation(c + bias + residual).
// `first` is the output channel of column 0 (where bias starts), `base` the output's address: residual and pre are
// laid out as the output. Uses the functions of simd/math.h, as the separate ops do: the bits are the same.
template <class T>
struct Finish {
  const Epilogue* epilogue;
  T* base;
  T* const* c;
  int rows;
  int cols;
  int64_t first;
};

namespace {

// Whether there is nothing to do.
inline bool is_trivial(const Epilogue& e) {
  return !e.bias && !e.residual && !e.gate && !e.pre && e.activation == Activation::kNone;
}

// Whether an activation takes so few instructions that every register tile has them.
constexpr bool is_in_registers(Activation activation) {
  return activation == Activation::kNone || activation == Activation::kRelu || activation == Activation::kRelu6;
}

}  // namespace

void finish(const Finish<float>& f);
void finish(const Finish<double>& f);

// Elements [begin, end) of an output that knows no columns: the epilogue has no bias.
template <class T>
inline void finish_flat(const Epilogue& epilogue, T* base, int64_t begin, int64_t end) {
  T* const row = base + begin;
  finish(Finish<T>{&epilogue, base, &row, 1, static_cast<int>(end - begin), 0});
}

}  // namespace quernel::QUERNEL_ISA
