// Scaled dot-product attention of several heads.
#pragma once
#include <utility>

#include "core/tensor.h"
#include "runtime/generator.h"

namespace quernel::ops {

// With heads = 0, q (N, H, Tq, D), k (N, H, Tk, D), v (N, H, Tk, Dv) -> y (N, H, Tq, Dv). Otherwise heads lie side by
// side in rows: q (N, Tq, H D), k (N, Tk, H D), v (N, Tk, H Dv) -> y (N, Tq, H Dv), where k may hold the rows of v
// behind its own, v being undefined, or q all three. Beside such a k, q may have rows of all three as well.
struct AttentionOperands {
  Tensor q, k, v;
  Tensor mask;  // bool (1 = takes part) or summands, broadcast to (N, H, Tq, Tk); may be undefined
  int64_t heads = 0;
  bool causal = false;
  int64_t past = 0;  // causal: key j takes part for query i if j <= past + i
  Tensor past_at;    // one int64 instead, which a replay reads anew; may be undefined
  double scale = 1;
  double dropout = 0;  // probability of leaving a weight out
};

// What the forward pass keeps for the gradients, undefined unless wanted.
struct AttentionSaved {
  Tensor lse;    // the softmax's sums (N, H, Tq)
  Tensor drawn;  // int64 (2): where dropout's draws began; undefined without dropout
};
struct AttentionGrads {
  Tensor q, k, v, mask;  // each of its operand's shape: undefined where that is, or where nobody wants it
};
struct AttentionWants {
  bool q, k, v, mask;
};

// Dropout draws from `generator`; the gradients draw the same again.
std::pair<Tensor, AttentionSaved> attention(const AttentionOperands& operands, const Generator& generator, bool save);
AttentionGrads attention_grad(const AttentionOperands& operands, const Tensor& y, const AttentionSaved& saved,
                              const Tensor& g, const AttentionWants& wants);

// Rows x (N, t, C) behind the `length` that y (N, capacity, c) holds: of each the last c <= C columns, in place;
// length, one int64, grows by t. Returns what it was. Refused, before anything is written, where there is no room.
Tensor append_rows(const Tensor& y, const Tensor& length, const Tensor& x);

// A length's number, also while a recording goes on: for deciding what a replay finds refused.
int64_t length_now(const Tensor& length);

}  // namespace quernel::ops
