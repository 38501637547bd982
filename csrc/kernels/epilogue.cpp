// Bias, residual, gate and activation, as a second pass over outputs that are still in L1. Register tiles finish bias,
// residual, ReLU and ReLU6 themselves (gemm_tile.cpp); the other activations would cost their code times every tile
// shape.
#include "kernels/epilogue.h"

#include "kernels/simd/math.h"
#include "kernels/visit.h"

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
    const T* gate = e.gate ? static_cast<const T*>(e.gate) + (c - f.base) : nullptr;
    T* pre = e.pre ? static_cast<T*>(e.pre) + (c - f.base) : nullptr;
    for_lanes<V>(f.cols, [&](int64_t j, int lanes) {
      V v = get<V>(c + j, lanes);
      if (bias) v = v + get<V>(bias + j, lanes);
      if (residual) v = v + get<V>(residual + j, lanes);
      if (gate) v = select(get<V>(gate + j, lanes) > V::zero(), v, V::zero());
      if (pre) put(v, pre + j, lanes);
      put(activate(kActivation, v), c + j, lanes);
    });
  }
}

template <class V>
inline void dispatch(const Finish<typename V::Scalar>& f) {
  const Epilogue& e = *f.epilogue;
  switch (e.activation) {
    case Activation::kNone:
      if (!is_trivial(e)) finish_rows<V, Activation::kNone>(f);
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
