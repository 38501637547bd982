// Bias, residual and activation, as a second pass over a register tile's outputs, which are still in L1. Fusing them
// into the tile's own stores would save that pass (a percent or two at depth 64) and cost seven activations times every
// tile shape in code.
#include "kernels/epilogue.h"

#include "kernels/simd/math.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V, Activation kActivation>
void finish_rows(const Finish<typename V::Scalar>& f) {
  using T = typename V::Scalar;
  const Epilogue& e = *f.epilogue;
  const T* bias = e.bias ? static_cast<const T*>(e.bias) + f.first : nullptr;
  for (int i = 0; i < f.rows; ++i) {
    T* c = f.c[i];
    const T* residual = e.residual ? static_cast<const T*>(e.residual) + (c - f.base) : nullptr;
    T* pre = e.pre ? static_cast<T*>(e.pre) + (c - f.base) : nullptr;
    for (int j = 0; j < f.cols; j += V::kWidth) {
      const int lanes = f.cols - j < V::kWidth ? f.cols - j : V::kWidth;
      V v = V::load(c + j, lanes);
      if (bias) v = v + V::load(bias + j, lanes);
      if (residual) v = v + V::load(residual + j, lanes);
      if (pre) v.store(pre + j, lanes);
      activate(kActivation, v).store(c + j, lanes);
    }
  }
}

template <class V>
inline void dispatch(const Finish<typename V::Scalar>& f) {
  const Epilogue& e = *f.epilogue;
  switch (e.activation) {
    case Activation::kNone:
      if (e.bias || e.residual || e.pre) finish_rows<V, Activation::kNone>(f);
      return;
    case Activation::kRelu:
      return finish_rows<V, Activation::kRelu>(f);
    case Activation::kTanh:
      return finish_rows<V, Activation::kTanh>(f);
    case Activation::kSigmoid:
      return finish_rows<V, Activation::kSigmoid>(f);
    case Activation::kGelu:
      return finish_rows<V, Activation::kGelu>(f);
    case Activation::kSilu:
      return finish_rows<V, Activation::kSilu>(f);
    case Activation::kRelu6:
      return finish_rows<V, Activation::kRelu6>(f);
    case Activation::kHardswish:
      return finish_rows<V, Activation::kHardswish>(f);
  }
}

}  // namespace

void finish(const Finish<float>& f) { dispatch<VecF32>(f); }
void finish(const Finish<double>& f) { dispatch<VecF64>(f); }

}  // namespace quernel::QUERNEL_ISA
