// Elementwise kernels over contiguous or broadcast operands.
#include <cstring>

#include "kernels/args.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
void unary_block(UnaryOp op, const T* x, T* y, int64_t n) {
  switch (op) {
    case UnaryOp::kNeg:
      for (int64_t i = 0; i < n; ++i) y[i] = -x[i];
      break;
    default:
      std::memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
  }
}

}  // namespace

Status unary(const UnaryArgs& a, Range r, const Ctx&) {
  const int64_t begin = r.begin * kElementBlock;
  const int64_t end = r.end * kElementBlock < a.size ? r.end * kElementBlock : a.size;
  unary_block(a.op, static_cast<const float*>(a.x) + begin, static_cast<float*>(a.y) + begin, end - begin);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
