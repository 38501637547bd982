// Bias, residual, gate and activation, as a second pass over outputs that are still in L1. Register tiles finish bias,
// residual, ReLU and ReLU6 themselves (gemm_tile.cpp); the other activations would cost their code times every tile
// shape.
#include "kernels/epilogue.h"

#include "kernels/simd/math.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kRests = 16;  // rows whose last columns go together

// What comes before the activation, in one row.
template <class V, class T = typename V::Scalar>
struct Row {
  T* c;
  const T* bias;
  const T* residual;
  const T* gate;
  T* pre;

  Row(const Finish<T>& f, int i) : c(f.c[i]) {
    const Epilogue& e = *f.epilogue;
    const int64_t at = c - f.base;
    bias = e.bias ? static_cast<const T*>(e.bias) + f.first : nullptr;
    residual = e.residual ? static_cast<const T*>(e.residual) + at : nullptr;
    gate = e.gate ? static_cast<const T*>(e.gate) + at : nullptr;
    pre = e.pre ? static_cast<T*>(e.pre) + at : nullptr;
  }

  V operator()(int64_t j, int lanes) const {
    V v = get<V>(c + j, lanes);
    if (bias) v = v + get<V>(bias + j, lanes);
    if (residual) v = v + get<V>(residual + j, lanes);
    if (gate) v = select(get<V>(gate + j, lanes) > V::zero(), v, V::zero());
    if (pre) put(v, pre + j, lanes);
    return v;
  }
};

// Columns from `first` on, fewer than a register holds, of rows [begin, end): side by side in as few registers as they
// fill.
template <class V, Activation kActivation>
void finish_rests(const Finish<typename V::Scalar>& f, int begin, int end, int first) {
  using T = typename V::Scalar;
  T rests[kRests * V::kWidth];
  const int lanes = f.cols - first;
  T* at = rests;
  for (int i = begin; i < end; ++i, at += lanes) put(Row<V>(f, i)(first, lanes), at, lanes);
  for_lanes<V>(at - rests, [&](int64_t j, int n) { put(activate(kActivation, get<V>(rests + j, n)), rests + j, n); });
  at = rests;
  for (int i = begin; i < end; ++i, at += lanes) put(get<V>(at, lanes), f.c[i] + first, lanes);
}

template <class V, Activation kActivation>
void finish_rows(const Finish<typename V::Scalar>& f) {
  // Else a rest of one column would take as long as a whole register.
  constexpr bool kTogether = kActivation != Activation::kHardswish && !is_in_registers(kActivation);
  const int last = kTogether && f.rows > 1 ? f.cols / V::kWidth * V::kWidth : f.cols;
  for (int i = 0; i < f.rows; ++i) {
    const Row<V> row(f, i);
    for_lanes<V>(last, [&](int64_t j, int lanes) { put(activate(kActivation, row(j, lanes)), row.c + j, lanes); });
  }
  if constexpr (kTogether) {
    for (int i = 0; last < f.cols && i < f.rows; i += kRests)
      finish_rests<V, kActivation>(f, i, f.rows - i < kRests ? f.rows : i + kRests, last);
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
