#include "ops/attention.h"

#include <algorithm>
#include <type_traits>

#include "core/allocator.h"
#include "core/error.h"
#include "ops/common.h"
#include "ops/embedding.h"
#include "ops/matmul.h"
#include "ops/strided.h"
#include "runtime/launch.h"
#include "runtime/thread_pool.h"

namespace quernel::ops {
namespace {

constexpr const char* kOp = "scaled_dot_product_attention";
constexpr double kExpMacs = 16;   // an exponential takes as long as so many multiplications
constexpr double kDrawMacs = 32;  // and a number of the random stream

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
  check<ArgumentError>(o.dropout >= 0 && o.dropout <= 1, kOp, "dropout is a probability in [0, 1], is ", o.dropout);
  const bool q_alone = o.k.defined(), k_alone = o.v.defined();
  check<ShapeError>(q_alone || (!k_alone && o.heads > 0), kOp, "needs k and v, unless the rows of q hold them");
  check<ShapeError>(k_alone || o.heads > 0, kOp, "needs v, unless the rows of k hold it");
  const Tensor &k_rows = q_alone ? o.k : o.q, &v_rows = k_alone ? o.v : k_rows;
  // Not for gradients: those of the columns behind would be nobody's.
  const bool q_packed = std::is_same_v<Args, AttentionArgs> && q_alone && !k_alone && o.q.rank() == 3 &&
                        o.k.rank() == 3 && 2 * o.q.dim(2) == 3 * o.k.dim(2);
  const int64_t q_parts = q_alone && !q_packed ? 1 : 3, k_parts = k_alone ? 1 : q_alone ? 2 : 3;
  const Heads q = heads_of("q", o.q, o.heads, 0, q_parts);
  const Heads k = heads_of("k", k_rows, o.heads, q_alone ? 0 : 1, k_parts);
  const Heads v = heads_of("v", v_rows, o.heads, k_alone ? 0 : k_parts - 1, k_parts);
  for (const Tensor* t : {&k_rows, &v_rows})
    check<DTypeError>(t->dtype() == o.q.dtype(), kOp, "q is ", name(o.q.dtype()), ", k or v is ", name(t->dtype()));
  const auto agree = [&](const Heads& h) { return h.batch == q.batch && h.heads == q.heads; };
  check<ShapeError>(agree(k) && agree(v) && q.cols == k.cols && k.rows == v.rows, kOp, "q of shape ", o.q.shape(),
                    ", k of shape ", k_rows.shape(), " and v of shape ", v_rows.shape(), " do not fit");
  if (o.past_at.defined())
    check<DTypeError>(o.past_at.dtype() == DType::kInt64 && o.past_at.size() == 1, kOp,
                      "past is one int64, is of shape ", o.past_at.shape(), " and ", name(o.past_at.dtype()));
  Args a;
  a.dtype = o.q.dtype();
  a.causal = o.causal;
  a.past = o.past_at.defined() ? k.rows : o.past;  // for the work's estimate
  a.scale = o.scale;
  a.dropout = o.dropout;
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
  const int64_t keys = a.causal ? std::min(s.keys, a.past + (s.queries + 1) / 2) : s.keys;
  const double pairs = static_cast<double>(s.batch * s.heads * s.queries) * static_cast<double>(keys);
  const double each = static_cast<double>(columns), other = a.dropout > 0 ? kExpMacs + kDrawMacs : kExpMacs;
  return {items, 500 + mac_ns(a.dtype, pairs * (each + other) / static_cast<double>(items)), 2 * pairs * each};
}

int64_t query_blocks(const AttentionSize& s) { return ceil_div(s.queries, kAttentionQueries); }
int64_t key_blocks(const AttentionSize& s) { return ceil_div(s.keys, kAttentionKeys); }

// Blocks of queries in an item of the forward pass, which share copies of keys and values: up to four, if that leaves
// every thread four items.
int64_t query_span(const AttentionSize& s) {
  const int64_t items = s.batch * s.heads * query_blocks(s), threads = ThreadPool::instance().size();
  return std::clamp<int64_t>(items / (4 * threads), 1, std::clamp<int64_t>(query_blocks(s), 1, 4));
}

// Whether two passes over blocks take less time than one over heads: threads decide, since the bits are the same. Each
// pass computes the scores and their gradients, two products, and one for every gradient.
bool splits(const AttentionSize& s, bool dq, bool dk, bool dv) {
  const int64_t threads = ThreadPool::instance().size(), heads = s.batch * s.heads;
  const auto time = [&](int products, int64_t parts) {
    return products * static_cast<double>(ceil_div(heads * parts, threads)) /
           static_cast<double>(std::max<int64_t>(parts, 1));
  };
  const double queries = dq ? time(3, query_blocks(s)) : 0, keys = dk || dv ? time(2 + dk + dv, key_blocks(s)) : 0;
  return queries + keys < time(2 + dq + dk + dv, 1);
}

// Items of attention_grad_mask.
int64_t mask_items(const AttentionInputs& a) {
  const AttentionSize& s = a.size;
  const int64_t counts[4] = {s.batch, s.heads, query_blocks(s), key_blocks(s)};
  int64_t items = 1;
  for (int i = 0; i < 4; ++i) items *= a.mask_at[i] == 0 ? 1 : counts[i];
  return items;
}

}  // namespace

std::pair<Tensor, AttentionSaved> attention(const AttentionOperands& o, const Generator& generator, bool save) {
  using A = AttentionArgs;
  A args = arguments<A>(o);
  const AttentionSize& s = args.size;
  const Device device = o.q.device();
  const Tensor y = Tensor::empty(args.dtype, output_shape(args, o.heads), device);
  AttentionSaved saved;
  if (save) saved.lse = Tensor::empty(args.dtype, {s.batch, s.heads, s.queries}, device);
  Tensor state;
  if (o.dropout > 0) {
    const int64_t draws = s.batch * s.heads * s.queries * ceil_div(s.keys, 4);
    args.offset = generator.reserve(static_cast<uint64_t>(draws), device);
    state = generator.state(device);
    if (save) saved.drawn = Tensor::empty(DType::kInt64, {2}, device);
  }
  const Tensor &k = o.k.defined() ? o.k : o.q, &v = o.v.defined() ? o.v : k;
  args.span = query_span(s);
  launch(kOp, &KernelTable::attention, args,
         work_of(args, s.batch * s.heads * ceil_div(query_blocks(s), args.span), s.depth + s.values),
         {read<A>(&A::q, o.q), read<A>(&A::k, k), read<A>(&A::v, v), read<A>(&A::mask, o.mask),
          read<A>(&A::past_at, o.past_at), read<A>(&A::state, state), write(&A::y, y), write(&A::lse, saved.lse),
          write(&A::drawn, saved.drawn)});
  return {y, saved};
}

AttentionGrads attention_grad(const AttentionOperands& o, const Tensor& y, const AttentionSaved& saved, const Tensor& g,
                              const AttentionWants& wants) {
  using A = AttentionGradArgs;
  const A args = arguments<A>(o);
  const AttentionSize& s = args.size;
  const Shape shape = output_shape(args, o.heads);
  check_like(kOp, "y", y, shape, args.dtype);
  check_like(kOp, "g", g, shape, args.dtype);
  check_like(kOp, "lse", saved.lse, {s.batch, s.heads, s.queries}, args.dtype);
  if (o.dropout > 0) check_like(kOp, "drawn", saved.drawn, {2}, DType::kInt64);
  const auto grad_of = [](bool wanted, const Tensor& t) {
    return wanted && t.defined() ? Tensor::empty(t.dtype(), t.shape(), t.device()) : Tensor();
  };
  const AttentionGrads grads{grad_of(wants.q, o.q), grad_of(wants.k, o.k), grad_of(wants.v, o.v),
                             grad_of(wants.mask && !args.mask_is_bool, o.mask)};
  const Tensor &k = o.k.defined() ? o.k : o.q, &v = o.v.defined() ? o.v : k, none;
  const Tensor &dk = o.k.defined() ? grads.k : grads.q, &dv = o.v.defined() ? grads.v : dk;
  const auto run = [&](Kernel<A> KernelTable::* kernel, int64_t items, const Tensor& to_q, const Tensor& to_k,
                       const Tensor& to_v, const Tensor& to_mask, Access access) {
    const int products = 2 + to_q.defined() + to_k.defined() + to_v.defined();
    launch(kOp, kernel, args, work_of(args, items, products * (s.depth + s.values) / 2),
           {read<A>(&A::q, o.q), read<A>(&A::k, k), read<A>(&A::v, v), read<A>(&A::mask, o.mask),
            read<A>(&A::past_at, o.past_at), read(&A::y, y), read(&A::lse, saved.lse), read(&A::g, g),
            read<A>(&A::state, saved.drawn), Operand{&to_q, field_offset(&A::dq), access},
            Operand{&to_k, field_offset(&A::dk), access}, Operand{&to_v, field_offset(&A::dv), access},
            write(&A::dmask, to_mask)});
  };
  const bool wants_q = grads.q.defined(), wants_k = dk.defined(), wants_v = dv.defined();
  if (splits(s, wants_q, wants_k, wants_v)) {  // the rows of one tensor may be of both
    const Access part = Access::kUpdate;
    const int64_t heads = s.batch * s.heads;
    if (wants_q) run(&KernelTable::attention_grad_queries, heads * query_blocks(s), grads.q, none, none, none, part);
    if (wants_k || wants_v) run(&KernelTable::attention_grad_keys, heads * key_blocks(s), none, dk, dv, none, part);
  } else if (wants_q || wants_k || wants_v) {
    run(&KernelTable::attention_grad, s.batch * s.heads, grads.q, dk, dv, none, Access::kWrite);
  }
  if (grads.mask.defined())
    run(&KernelTable::attention_grad_mask, mask_items(args), none, none, none, grads.mask, Access::kWrite);
  return grads;
}

Tensor append_rows(const Tensor& y, const Tensor& length, const Tensor& x) {
  using A = AppendRowsArgs;
  constexpr const char* kAppend = "append_rows_";
  check<ShapeError>(x.rank() == 3 && y.rank() == 3 && x.dim(0) == y.dim(0) && x.dim(2) >= y.dim(2), kAppend,
                    "rows of shape ", x.shape(), " do not fit a cache of shape ", y.shape());
  check<DTypeError>(x.dtype() == y.dtype(), kAppend, "the cache is ", name(y.dtype()), ", rows are ", name(x.dtype()));
  check_like(kAppend, "length", length, {1}, DType::kInt64);
  check_index({kAppend, "places where these rows fit", 0, false}, length.reshape({}),
              std::max<int64_t>(y.dim(1) - x.dim(1) + 1, 0));
  const Tensor at = Tensor::empty(DType::kInt64, {1}, length.device());
  A args;
  args.batch = x.dim(0);
  args.rows = x.dim(1);
  args.capacity = y.dim(1);
  args.row_bytes = y.dim(2) * static_cast<int64_t>(itemsize(y.dtype()));
  args.x_row_bytes = x.dim(2) * static_cast<int64_t>(itemsize(x.dtype()));
  const double bytes = static_cast<double>(args.batch * args.rows * args.row_bytes);
  launch(kAppend, &KernelTable::append_rows, args, {1, 10 + bytes / 8},
         {read(&A::x, x), update(&A::y, y), update(&A::length, length), write(&A::at, at)});
  return at;
}

int64_t length_now(const Tensor& length) {
  check_like("length_now", "length", length, {1}, DType::kInt64);
  int64_t now;
  allocator(length.device()).download(&now, length.data(), sizeof now);
  return now;
}

}  // namespace quernel::ops
