// Scaled dot-product attention of several heads.
#pragma once
#include <tuple>
#include <utility>

#include "core/tensor.h"

namespace quernel::ops {

// With heads = 0, q (N, H, Tq, D), k (N, H, Tk, D), v (N, H, Tk, Dv) -> y (N, H, Tq, Dv). Otherwise heads lie side by
// side in rows: q (N, Tq, H D), k (N, Tk, H D), v (N, Tk, H Dv) -> y (N, Tq, H Dv), where k may hold the rows of v
// behind its own, v being undefined, or q all three.
struct AttentionOperands {
  Tensor q, k, v;
  Tensor mask;  // bool (1 = takes part) or summands, broadcast to (N, H, Tq, Tk); may be undefined
  int64_t heads = 0;
  bool causal = false;
  int64_t past = 0;  // causal: key j takes part for query i if j <= past + i
  double scale = 1;
};

// (y, lse): the softmax's sums (N, H, Tq) are for the gradient; undefined unless wanted.
std::pair<Tensor, Tensor> attention(const AttentionOperands& operands, bool want_lse);
// Gradients of q, k and v, each of its operand's shape: undefined where that is, or where `wanted` does not say so.
std::tuple<Tensor, Tensor, Tensor> attention_grad(const AttentionOperands& operands, const Tensor& y, const Tensor& lse,
                                                  const Tensor& g, bool want_q, bool want_k, bool want_v);

}  // namespace quernel::ops
