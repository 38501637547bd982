#include "ops/recurrent.h"

#include <string>
#include <utility>

#include "core/error.h"
#include "ops/common.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr int64_t kStripRows = 12;  // whole register tiles at every level

const char* op_name(Cell cell) { return cell == Cell::kLstm ? "lstm" : cell == Cell::kGru ? "gru" : "rnn"; }

int64_t gate_count(Cell cell) { return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1; }

// Rows that walk together: enough to use each line of the weight often, few enough to keep all threads busy.
int64_t strip_rows(int64_t rows) {
  const int64_t even = ceil_div(rows, kBusyItems);
  return even <= kStripRows / 2 ? kStripRows / 2 : even <= kStripRows ? kStripRows : kRecurrentRows;
}

RecurrentShape shape_of(const char* op, const Tensor& x, const RecurrentWeights& w, const RecurrentSpec& spec) {
  check_floating(op, "x", x.dtype());
  check<ShapeError>(x.rank() == 3, op, "x must be (N, T, C), got ", x.shape());
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
Work walk_work(const RecurrentShape& s, int64_t depth) {
  const auto row_steps = static_cast<double>(s.strip * s.steps), width = static_cast<double>(s.gates * s.hidden);
  const double macs = width * static_cast<double>(depth);
  return {ceil_div(s.rows, s.strip), row_steps * (mac_ns(s.dtype, macs) + 0.5 * width),
          2.0 * macs * static_cast<double>(s.rows * s.steps)};
}

}  // namespace

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
  if (lengths.defined()) {
    CheckLengthsArgs checked;
    checked.rows = args.rows;
    checked.steps = args.steps;
    launch(op, &KernelTable::check_lengths, checked, {1, static_cast<double>(args.rows)},
           {read(&CheckLengthsArgs::lengths, lengths)});
  }
  const bool is_lstm = spec.cell == Cell::kLstm, has_gates = args.gates > 1;
  const auto empty = [&](const Shape& shape) { return Tensor::empty(x.dtype(), shape, x.device()); };
  const Shape sequence{args.rows, args.steps, args.hidden}, state{args.rows, args.hidden};
  RecurrentResult r;
  r.y = empty(sequence);
  r.h_n = empty(state);
  if (is_lstm) r.c_n = empty(state);
  const int64_t width = args.gates * args.hidden;
  if (save) {
    if (has_gates) r.gates = empty({args.rows, args.steps, width}), r.cell = empty(sequence);
    r.h_prev = empty(sequence);
  }
  const Tensor weight_ih = pack_matrix(weights.ih, 1, args.inputs, width, true);
  const Tensor weight_hh = pack_matrix(weights.hh, 1, args.hidden, width, true);
  launch(op, &KernelTable::recurrent, args, walk_work(args, args.inputs + args.hidden),
         {read(&A::x, x), read(&A::weight_ih, weight_ih), read(&A::weight_hh, weight_hh),
          read(&A::bias_ih, weights.bias_ih), read(&A::bias_hh, weights.bias_hh), read(&A::h0, initial.h),
          read(&A::c0, initial.c), read(&A::lengths, lengths), write(&A::y, r.y), write(&A::h_n, r.h_n),
          write(&A::c_n, r.c_n), write(&A::gates_t, r.gates), write(&A::cell_t, r.cell), write(&A::h_prev, r.h_prev)});
  return r;
}

RecurrentGradients recurrent_grad(const RecurrentResult& forward, const Tensor& weight_hh, const Tensor& c0,
                                  const Tensor& lengths, const RecurrentOutgoing& g, const RecurrentSpec& spec) {
  using A = RecurrentGradArgs;
  const char* op = op_name(spec.cell);
  const Tensor& kept = forward.h_prev;
  A args;
  args.dtype = kept.dtype();
  args.cell = spec.cell;
  args.reverse = spec.reverse;
  args.rows = kept.dim(0);
  args.steps = kept.dim(1);
  args.hidden = kept.dim(2);
  args.gates = gate_count(spec.cell);
  args.strip = strip_rows(args.rows);
  const Shape state{args.rows, args.hidden};
  if (g.y.defined()) check_like(op, "gradient of the output", g.y, kept.shape(), kept.dtype());
  if (g.h_n.defined()) check_like(op, "gradient of h_n", g.h_n, state, kept.dtype());
  if (g.c_n.defined()) check_like(op, "gradient of c_n", g.c_n, state, kept.dtype());
  const int64_t width = args.gates * args.hidden;
  const auto empty = [&](const Shape& shape) { return Tensor::empty(kept.dtype(), shape, kept.device()); };
  const bool is_gru = spec.cell == Cell::kGru, is_lstm = spec.cell == Cell::kLstm;
  const int64_t strips = ceil_div(args.rows, args.strip);
  RecurrentGradients d;
  d.inputs = empty({args.rows, args.steps, width});
  if (is_gru) d.states = empty({args.rows, args.steps, width});
  d.dh0 = empty(state);
  if (is_lstm) d.dc0 = empty(state);
  const Tensor sum_inputs = empty({strips, width}), sum_states = is_gru ? empty({strips, width}) : Tensor();
  const Tensor packed = pack_matrix(weight_hh, 1, width, args.hidden, false);
  launch(op, &KernelTable::recurrent_grad, args, walk_work(args, args.hidden),
         {read(&A::gates_t, forward.gates), read(&A::cell_t, forward.cell),
          read(&A::h_prev, is_gru ? forward.h_prev : Tensor()), read(&A::y, args.gates == 1 ? forward.y : Tensor()),
          read(&A::c0, c0), read(&A::lengths, lengths), read(&A::weight_hh, packed), read(&A::g_y, g.y),
          read(&A::g_h, g.h_n), read(&A::g_c, g.c_n), write(&A::of_inputs, d.inputs), write(&A::of_states, d.states),
          write(&A::sum_inputs, sum_inputs), write(&A::sum_states, sum_states), write(&A::dh0, d.dh0),
          write(&A::dc0, d.dc0)});
  d.bias_ih = sum_middle(op, sum_inputs, 1, strips, width);
  d.bias_hh = is_gru ? sum_middle(op, sum_states, 1, strips, width) : d.bias_ih;
  if (!is_gru) d.states = d.inputs;
  return d;
}

}  // namespace quernel::ops
