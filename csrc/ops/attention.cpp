#include "ops/attention.h"

#include <algorithm>

#include "core/error.h"
#include "ops/common.h"
#include "ops/matmul.h"
#include "ops/strided.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr const char* kOp = "scaled_dot_product_attention";
constexpr double kExpMacs = 16;  // an exponential takes as long as so many multiplications

// A head's size in one operand.
struct Heads {
  int64_t batch, heads, rows, cols;
  HeadPlace place;
};

// Part `part` of `parts` that lie behind each other in the rows of t.
Heads heads_of(const char* what, const Tensor& t, int64_t heads, int64_t part, int64_t parts) {
  const int rank = heads == 0 ? 4 : 3;
  check<ShapeError>(t.rank() == rank, kOp, what, " must have ", rank, " dimensions ",
                    heads == 0 ? "(N, H, T, D)" : "(N, T, H D)", ", has shape ", t.shape());
  if (heads == 0) {
    const int64_t rows = t.dim(2), cols = t.dim(3);
    return {t.dim(0), t.dim(1), rows, cols, {0, t.dim(1) * rows * cols, rows * cols, cols}};
  }
  const int64_t width = t.dim(2);
  check<ShapeError>(width % (heads * parts) == 0, kOp, what, " of shape ", t.shape(), " does not hold ", parts,
                    " times ", heads, " heads in its rows");
  const int64_t cols = width / (heads * parts);
  return {t.dim(0), heads, t.dim(1), cols, {part * heads * cols, t.dim(1) * width, cols, width}};
}

void set_mask(AttentionInputs& a, const Tensor& mask) {
  if (!mask.defined()) return;
  const Shape scores{a.size.batch, a.size.heads, a.size.queries, a.size.keys};
  a.mask_is_bool = mask.dtype() == DType::kBool;
  check<DTypeError>(a.mask_is_bool || mask.dtype() == a.dtype, kOp, "attn_mask must be bool or ", name(a.dtype),
                    ", is ", name(mask.dtype()));
  check<ShapeError>(mask.rank() <= 4 && broadcast(kOp, mask.shape(), scores) == scores, kOp, "attn_mask of shape ",
                    mask.shape(), " does not broadcast to (N, H, Tq, Tk) = ", scores);
  const Strides strides = broadcast_strides(mask.shape(), scores);
  std::copy_n(strides.begin(), 4, a.mask_at);
}

template <class Args>
Args arguments(const AttentionOperands& o) {
  check_floating(kOp, "q", o.q.dtype());
  check<ArgumentError>(o.heads >= 0 && o.past >= 0, kOp, "heads and past are not negative, are ", o.heads, " and ",
                       o.past);
  const bool q_alone = o.k.defined(), k_alone = o.v.defined();
  check<ShapeError>(q_alone || (!k_alone && o.heads > 0), kOp, "needs k and v, unless the rows of q hold them");
  check<ShapeError>(k_alone || o.heads > 0, kOp, "needs v, unless the rows of k hold it");
  const Tensor &k_rows = q_alone ? o.k : o.q, &v_rows = k_alone ? o.v : k_rows;
  const int64_t q_parts = q_alone ? 1 : 3, k_parts = k_alone ? 1 : q_alone ? 2 : 3;
  const Heads q = heads_of("q", o.q, o.heads, 0, q_parts);
  const Heads k = heads_of("k", k_rows, o.heads, q_alone ? 0 : 1, k_parts);
  const Heads v = heads_of("v", v_rows, o.heads, k_alone ? 0 : k_parts - 1, k_parts);
  for (const Tensor* t : {&k_rows, &v_rows})
    check<DTypeError>(t->dtype() == o.q.dtype(), kOp, "q is ", name(o.q.dtype()), ", k or v is ", name(t->dtype()));
  const auto agree = [&](const Heads& h) { return h.batch == q.batch && h.heads == q.heads; };
  check<ShapeError>(agree(k) && agree(v) && q.cols == k.cols && k.rows == v.rows, kOp, "q of shape ", o.q.shape(),
                    ", k of shape ", k_rows.shape(), " and v of shape ", v_rows.shape(), " do not fit");
  Args a;
  a.dtype = o.q.dtype();
  a.causal = o.causal;
  a.past = o.past;
  a.scale = o.scale;
  a.size = {q.batch, q.heads, q.rows, k.rows, q.cols, v.cols};
  a.q_at = q.place;
  a.k_at = k.place;
  a.v_at = v.place;
  a.y_at = o.heads == 0 ? HeadPlace{0, q.heads * q.rows * v.cols, q.rows * v.cols, v.cols}
                        : HeadPlace{0, q.rows * q.heads * v.cols, v.cols, q.heads * v.cols};
  set_mask(a, o.mask);
  return a;
}

Shape output_shape(const AttentionInputs& a, int64_t heads) {
  const AttentionSize& s = a.size;
  return heads == 0 ? Shape{s.batch, s.heads, s.queries, s.values} : Shape{s.batch, s.queries, s.heads * s.values};
}

// Work of `items` that share everything, at `columns` multiplications for each query and key.
Work work_of(const AttentionInputs& a, int64_t items, int64_t columns) {
  if (items == 0) return {0, 0};
  const AttentionSize& s = a.size;
  const double pairs = static_cast<double>(s.batch * s.heads * s.queries) * static_cast<double>(s.keys) *
                       (a.causal && a.past == 0 ? 0.5 : 1.0);
  const double each = static_cast<double>(columns);
  return {items, 500 + mac_ns(a.dtype, pairs * (each + kExpMacs) / static_cast<double>(items)), 2 * pairs * each};
}

}  // namespace

std::pair<Tensor, Tensor> attention(const AttentionOperands& o, bool want_lse) {
  using A = AttentionArgs;
  const A args = arguments<A>(o);
  const AttentionSize& s = args.size;
  const Tensor y = Tensor::empty(args.dtype, output_shape(args, o.heads), o.q.device());
  const Tensor lse = want_lse ? Tensor::empty(args.dtype, {s.batch, s.heads, s.queries}, o.q.device()) : Tensor();
  const Tensor &k = o.k.defined() ? o.k : o.q, &v = o.v.defined() ? o.v : k;
  const int64_t items = s.batch * s.heads * ceil_div(s.queries, kAttentionQueries);
  launch(kOp, &KernelTable::attention, args, work_of(args, items, s.depth + s.values),
         {read<A>(&A::q, o.q), read<A>(&A::k, k), read<A>(&A::v, v), read<A>(&A::mask, o.mask), write(&A::y, y),
          write(&A::lse, lse)});
  return {y, lse};
}

std::tuple<Tensor, Tensor, Tensor> attention_grad(const AttentionOperands& o, const Tensor& y, const Tensor& lse,
                                                  const Tensor& g, bool want_q, bool want_k, bool want_v) {
  using A = AttentionGradArgs;
  const A args = arguments<A>(o);
  const AttentionSize& s = args.size;
  const Shape shape = output_shape(args, o.heads);
  check_like(kOp, "y", y, shape, args.dtype);
  check_like(kOp, "g", g, shape, args.dtype);
  check_like(kOp, "lse", lse, {s.batch, s.heads, s.queries}, args.dtype);
  const auto grad_of = [](bool wanted, const Tensor& t) {
    return wanted && t.defined() ? Tensor::empty(t.dtype(), t.shape(), t.device()) : Tensor();
  };
  const Tensor dq = grad_of(want_q, o.q), dk = grad_of(want_k, o.k), dv = grad_of(want_v, o.v);
  const Tensor &k = o.k.defined() ? o.k : o.q, &v = o.v.defined() ? o.v : k;
  const Tensor &dk_rows = o.k.defined() ? dk : dq, &dv_rows = o.v.defined() ? dv : dk_rows;
  launch(kOp, &KernelTable::attention_grad, args, work_of(args, s.batch * s.heads, 3 * s.depth + 2 * s.values),
         {read<A>(&A::q, o.q), read<A>(&A::k, k), read<A>(&A::v, v), read<A>(&A::mask, o.mask), read(&A::y, y),
          read(&A::lse, lse), read(&A::g, g), write(&A::dq, dq), write(&A::dk, dk_rows), write(&A::dv, dv_rows)});
  return {dq, dk, dv};
}

}  // namespace quernel::ops
