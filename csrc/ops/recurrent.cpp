#include "ops/recurrent.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "ops/bf16.h"
#include "ops/common.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr int64_t kTile = 6;     // rows of a register tile: several are whole ones at every level
constexpr int64_t kFewRows = 8;  // two tiles of four rows
constexpr int64_t kPartsBytes = 8 << 20;

const char* op_name(Cell cell) { return cell == Cell::kLstm ? "lstm" : cell == Cell::kGru ? "gru" : "rnn"; }

int64_t gate_count(Cell cell) { return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1; }

// Rows that walk together: enough to use each line of the weight often, few enough to keep all threads busy. Few strips
// are an even number of even ones.
int64_t strip_rows(int64_t rows) {
  if (rows <= kTile) return kTile;
  const int64_t share = ceil_div(rows, kBusyItems);
  const int64_t most = share <= kTile ? kFewRows : share <= 2 * kTile ? 2 * kTile : kRecurrentRows;
  const int64_t strips = ceil_div(rows, most);
  return strips > kBusyItems ? most : ceil_div(rows, strips + strips % 2);
}

RecurrentShape shape_of(const char* op, const Tensor& x, const RecurrentWeights& w, const RecurrentSpec& spec) {
  check_floating(op, "x", x.dtype());
  check<ShapeError>(x.rank() == 3, op, "x must be (N, T, C), got ", x.shape());
  check<DTypeError>(!spec.bf16 || x.dtype() == DType::kFloat32, op, "x must be float32 for products in bfloat16, is ",
                    name(x.dtype()), "; cast it");
  check<ShapeError>(x.dim(1) > 0, op, "x has no time steps (x: ", x.shape(), ", (N, T, C))");
  RecurrentShape s;
  s.dtype = x.dtype();
  s.cell = spec.cell;
  s.reverse = spec.reverse;
  s.rows = x.dim(0);
  s.steps = x.dim(1);
  s.gates = gate_count(spec.cell);
  check<ShapeError>(w.hh.rank() == 2 && w.hh.dim(1) > 0 && w.hh.dim(0) == s.gates * w.hh.dim(1), op,
                    "weight_hh must be (", s.gates > 1 ? std::to_string(s.gates) + " * hidden" : std::string("hidden"),
                    ", hidden), got ", w.hh.shape());
  s.hidden = w.hh.dim(1);
  s.strip = strip_rows(s.rows);
  return s;
}

void check_operands(const char* op, const Tensor& x, const RecurrentWeights& w, const RecurrentState& initial,
                    const Tensor& lengths, const RecurrentShape& s) {
  const int64_t width = s.gates * s.hidden;
  check_like(op, "weight_ih", w.ih, {width, x.dim(2)}, x.dtype());
  check_like(op, "weight_hh", w.hh, {width, s.hidden}, x.dtype());
  for (const auto& [name, bias] : {std::pair{"bias_ih", &w.bias_ih}, {"bias_hh", &w.bias_hh}})
    if (bias->defined()) check_like(op, name, *bias, {width}, x.dtype());
  for (const auto& [name, state] : {std::pair{"h0", &initial.h}, {"c0", &initial.c}})
    if (state->defined()) check_like(op, name, *state, {s.rows, s.hidden}, x.dtype());
  if (lengths.defined()) check_like(op, "lengths", lengths, {s.rows}, DType::kInt64);
}

// Products with `depth` numbers for each gate.
Work walk_work(const RecurrentShape& s, int64_t depth, bool bf16) {
  const auto row_steps = static_cast<double>(s.strip * s.steps), width = static_cast<double>(s.gates * s.hidden);
  const double macs = width * static_cast<double>(depth);
  const double product_ns = bf16 ? bf16_mac_ns(macs) : mac_ns(s.dtype, macs);
  return {ceil_div(s.rows, s.strip), row_steps * (product_ns + 0.5 * width),
          2.0 * macs * static_cast<double>(s.rows * s.steps)};
}

// A weight that products multiply by, B[k, n], stored (n, k) if `transposed`.
Tensor packed(const Tensor& weight, int64_t k, int64_t n, bool transposed, bool bf16) {
  return bf16 ? bf16_columns({weight, n, k, transposed}) : pack_matrix(weight, 1, k, n, transposed);
}

// Items of the backward pass, each with gradients of the weights, of so many bytes, of its own: few where they are
// large.
int64_t grad_parts(const RecurrentShape& s, int64_t bytes) {
  const int64_t most = std::clamp<int64_t>(kPartsBytes / std::max<int64_t>(bytes, 1), 2, kBusyItems);
  return std::min(most, ceil_div(s.rows, s.strip));
}

}  // namespace

void check_lengths(const char* op, const Tensor& lengths, const LengthRange& range) {
  CheckLengthsArgs args;
  args.rows = lengths.size();
  args.range = range;
  launch(op, &KernelTable::check_lengths, args, {1, static_cast<double>(args.rows)},
         {read(&CheckLengthsArgs::lengths, lengths)});
}

Cell cell_from_name(const std::string& name) {
  if (name == "lstm") return Cell::kLstm;
  if (name == "gru") return Cell::kGru;
  if (name == "rnn_tanh") return Cell::kRnnTanh;
  check<ArgumentError>(name == "rnn_relu", "recurrent", "unknown cell '", name, "'");
  return Cell::kRnnRelu;
}

RecurrentResult recurrent(const Tensor& x, const RecurrentWeights& weights, const RecurrentState& initial,
                          const Tensor& lengths, const RecurrentSpec& spec, bool save) {
  using A = RecurrentArgs;
  const char* op = op_name(spec.cell);
  A args;
  static_cast<RecurrentShape&>(args) = shape_of(op, x, weights, spec);
  args.inputs = x.dim(2);
  check_operands(op, x, weights, initial, lengths, args);
  if (lengths.defined()) check_lengths(op, lengths, {1, args.steps, kTimeSteps});
  const bool is_lstm = spec.cell == Cell::kLstm;
  const auto empty = [&](const Shape& shape) { return Tensor::empty(x.dtype(), shape, x.device()); };
  const Shape sequence{args.rows, args.steps, args.hidden}, state{args.rows, args.hidden};
  RecurrentResult r;
  r.y = empty(sequence);
  r.h_n = empty(state);
  if (is_lstm) r.c_n = empty(state);
  const int64_t width = args.gates * args.hidden;
  if (save && args.gates > 1) {
    r.gates = empty({args.steps, args.rows, width});
    r.cell = empty({args.steps, args.rows, args.hidden});
  }
  const Tensor weight_ih = packed(weights.ih, args.inputs, width, true, spec.bf16);
  const Tensor weight_hh = packed(weights.hh, args.hidden, width, true, spec.bf16);
  launch(op, spec.bf16 ? &KernelTable::recurrent_bf16 : &KernelTable::recurrent, args,
         walk_work(args, args.inputs + args.hidden, spec.bf16),
         {read(&A::x, x), read(&A::weight_ih, weight_ih), read(&A::weight_hh, weight_hh),
          read(&A::bias_ih, weights.bias_ih), read(&A::bias_hh, weights.bias_hh), read(&A::h0, initial.h),
          read(&A::c0, initial.c), read(&A::lengths, lengths), write(&A::y, r.y), write(&A::h_n, r.h_n),
          write(&A::c_n, r.c_n), write(&A::gates_t, r.gates), write(&A::cell_t, r.cell)});
  return r;
}

RecurrentGradients recurrent_grad(const RecurrentResult& forward, const Tensor& x, const RecurrentWeights& weights,
                                  const RecurrentState& initial, const Tensor& lengths, const RecurrentOutgoing& g,
                                  const RecurrentSpec& spec, bool want_x) {
  using A = RecurrentGradArgs;
  const char* op = op_name(spec.cell);
  A args;
  static_cast<RecurrentShape&>(args) = shape_of(op, x, weights, spec);
  args.inputs = x.dim(2);
  check_operands(op, x, weights, initial, lengths, args);
  const Shape state{args.rows, args.hidden};
  const int64_t width = args.gates * args.hidden;
  if (g.y.defined()) check_like(op, "gradient of the output", g.y, forward.y.shape(), x.dtype());
  if (g.h_n.defined()) check_like(op, "gradient of h_n", g.h_n, state, x.dtype());
  if (g.c_n.defined()) check_like(op, "gradient of c_n", g.c_n, state, x.dtype());
  args.parts = grad_parts(args, width * (args.inputs + args.hidden) * static_cast<int64_t>(itemsize(x.dtype())));
  const auto empty = [&](const Shape& shape) { return Tensor::empty(x.dtype(), shape, x.device()); };
  const bool is_gru = spec.cell == Cell::kGru;
  const Tensor dweight_ih = empty({args.parts, width * args.inputs}),
               dweight_hh = empty({args.parts, width * args.hidden});
  const Tensor dbias_ih = empty({args.parts, width}), dbias_hh = is_gru ? empty({args.parts, width}) : Tensor();
  RecurrentGradients d;
  if (want_x) d.x = empty(x.shape());
  d.initial.h = empty(state);
  if (spec.cell == Cell::kLstm) d.initial.c = empty(state);
  const Tensor weight_ih = want_x ? packed(weights.ih, width, args.inputs, false, spec.bf16) : Tensor();
  const Tensor weight_hh = packed(weights.hh, width, args.hidden, false, spec.bf16);
  Work work = walk_work(args, args.inputs * (want_x ? 2 : 1) + 2 * args.hidden, spec.bf16);
  work.ns_per_item *= static_cast<double>(work.items) / static_cast<double>(std::max<int64_t>(args.parts, 1));
  work.items = args.parts;
  launch(op, spec.bf16 ? &KernelTable::recurrent_grad_bf16 : &KernelTable::recurrent_grad, args, work,
         {read(&A::gates_t, forward.gates), read(&A::cell_t, forward.cell), read(&A::x, x), read(&A::y, forward.y),
          read(&A::h0, initial.h), read(&A::c0, initial.c), read(&A::lengths, lengths), read(&A::weight_ih, weight_ih),
          read(&A::weight_hh, weight_hh), read(&A::g_y, g.y), read(&A::g_h, g.h_n), read(&A::g_c, g.c_n),
          write(&A::dx, d.x), write(&A::dweight_ih, dweight_ih), write(&A::dweight_hh, dweight_hh),
          write(&A::dbias_ih, dbias_ih), write(&A::dbias_hh, dbias_hh), write(&A::dh0, d.initial.h),
          write(&A::dc0, d.initial.c)});
  const auto total = [&](const Tensor& parts, const Shape& shape) {
    return sum_middle(op, parts, 1, args.parts, shape.volume()).reshape(shape);
  };
  d.weights.ih = total(dweight_ih, {width, args.inputs});
  d.weights.hh = total(dweight_hh, {width, args.hidden});
  d.weights.bias_ih = total(dbias_ih, {width});
  d.weights.bias_hh = is_gru ? total(dbias_hh, {width}) : d.weights.bias_ih;
  return d;
}

}  // namespace quernel::ops
