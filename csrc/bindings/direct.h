// Direct calls: an op called in the usual way, with tensors alone of which none needs a gradient, computes without
// entering Python (register_tape.cpp). Its function does the rest: numbers, arrays, gradients, recordings, and saying
// what is wrong.
#pragma once
#include "bindings/bindings.h"

namespace quernel {

inline constexpr int kMostOperands = 3;

// What an op's function computes of such tensors. `call` may refuse what the function does not.
struct Direct {
  const char* name;
  int operands;
  int kind;  // for `call`
  Tensor (*call)(const Direct& op, const Tensor* const* operands);
};

void add_direct(const Direct& op);
const Direct* find_direct(const std::string& name);  // null: there is none

// The result, a new reference to a quernel.Tensor. Null where the op's function must be called, or with an exception.
PyObject* call_direct(const Direct& op, PyObject* const* operands);

}  // namespace quernel
