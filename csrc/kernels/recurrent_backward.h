// Recurrent layers, backward through time. A strip of rows walks from its last step to its first: the gradients of the
// gates come from those of the state, and their product with the packed weight is the gradient of the state before.
//
// The gradients of the gates never go to memory. They gather in scratch, with the inputs and states that they belong
// to, until they fill the rows of a product; then they become gradients of the input, and are added to those of the
// weights and biases, which stay in L2 unless they are large. (Three matrix products behind this kernel, which
// read them back, took a tenth to a fifth longer.) Items have weight gradients of their own, which are summed at the
// end.
//
// What a step reads of its rows lies far apart and is fetched a step before: such loads were an eighth of the time at
// batch 64.
#pragma once
#include "kernels/recurrent_walk.h"
#include "kernels/scratch.h"
#include "kernels/simd/gate.h"

namespace quernel::QUERNEL_ISA {
namespace {

// One row at one step. On entry `dh` and `dc` are the gradients of the state that it leaves, as later steps have it.
template <class T>
struct Row {
  const T* gates;
  const T* cell;
  const T* before;  // c of an LSTM's step before, h of a GRU's; null: 0
  const T* y;
  const T* g_y;
  T* dh;
  T* dc;
  T* of_inputs;  // gradients of the products of inputs
  T* of_states;  // and of states: the same but for a GRU
};

template <class V, class T = typename V::Scalar>
inline V get_or_zero(const T* from, int64_t j, int lanes) {
  return from ? get<V>(from + j, lanes) : V::zero();
}

template <class T>
struct Lstm {
  static constexpr bool kAdds = false;  // to dh, whose share that bypasses the gates step() leaves there
  template <class V>
  static void step(const Row<T>& r, int64_t n, int64_t j, int lanes) {
    const V one = V::set(1);
    const auto gate = [&](int64_t k) { return get<V>(r.gates + k * n + j, lanes); };
    const auto result = [&](int64_t k, V v) { put(v, r.of_inputs + k * n + j, lanes); };
    const V i = gate(0), f = gate(1), g = gate(2), o = gate(3), y = gate_tanh(get<V>(r.cell + j, lanes));
    const V dh = get<V>(r.dh + j, lanes) + get_or_zero<V>(r.g_y, j, lanes);
    const V dc = fma(dh * o, fma(-y, y, one), get<V>(r.dc + j, lanes));
    result(0, dc * g * (i * (one - i)));
    result(1, dc * get_or_zero<V>(r.before, j, lanes) * (f * (one - f)));
    result(2, dc * i * fma(-g, g, one));
    result(3, dh * y * (o * (one - o)));
    put(dc * f, r.dc + j, lanes);
  }
};

template <class T>
struct Gru {
  static constexpr bool kAdds = true;
  template <class V>
  static void step(const Row<T>& row, int64_t n, int64_t j, int lanes) {
    const V one = V::set(1);
    const auto gate = [&](int64_t k) { return get<V>(row.gates + k * n + j, lanes); };
    const auto result = [&](int64_t k, V input, V state) {
      put(input, row.of_inputs + k * n + j, lanes);
      put(state, row.of_states + k * n + j, lanes);
    };
    const V r = gate(0), z = gate(1), candidate = gate(2);
    const V dh = get<V>(row.dh + j, lanes) + get_or_zero<V>(row.g_y, j, lanes);
    const V dn = dh * (one - z) * fma(-candidate, candidate, one);
    const V dr = dn * get<V>(row.cell + j, lanes) * (r * (one - r));
    const V dz = dh * (get_or_zero<V>(row.before, j, lanes) - candidate) * (z * (one - z));
    result(0, dr, dr);
    result(1, dz, dz);
    result(2, dn, dn * r);
    put(dh * z, row.dh + j, lanes);
  }
};

template <class T, Activation kActivation>
struct Rnn {
  static constexpr bool kAdds = false;
  template <class V>
  static void step(const Row<T>& r, int64_t, int64_t j, int lanes) {
    const V y = get<V>(r.y + j, lanes), dh = get<V>(r.dh + j, lanes) + get_or_zero<V>(r.g_y, j, lanes);
    const V d = kActivation == Activation::kTanh ? dh * fma(-y, y, V::set(1)) : select(y > V::zero(), dh, V::zero());
    put(d, r.of_inputs + j, lanes);
  }
};

// The states of a strip, and what gathers: for each row, gradients of the gates beside the input and the state before.
template <class T>
struct Scratch {
  T* dh = nullptr;
  T* dc = nullptr;
  T* of_inputs = nullptr;
  T* of_states = nullptr;
  T* x = nullptr;
  T* h = nullptr;
  std::byte* room = nullptr;
  int64_t lead;  // of rows of gates: no power of two, whose columns would lie in few sets of L1
  int64_t used = 0;

  Scratch(const RecurrentGradArgs& a, int64_t room_bytes, void* at) {
    constexpr int64_t kWidth = kPackWidth<T>;
    lead = (ceil_div(a.gates * a.hidden, kWidth) + 1) * kWidth;
    Carver carver(at);
    carver.take(dh, a.strip * a.hidden);
    if (a.cell == Cell::kLstm) carver.take(dc, a.strip * a.hidden);
    carver.take(of_inputs, kGathered * lead);
    of_states = of_inputs;
    if (a.cell == Cell::kGru) carver.take(of_states, kGathered * lead);
    carver.take(x, kGathered * ceil_div(a.inputs, kWidth) * kWidth);
    carver.take(h, kGathered * ceil_div(a.hidden, kWidth) * kWidth);
    carver.take(room, room_bytes);
    used = carver.used();
  }
};

// The gradients of an item.
template <class P>
class Part {
  using T = typename P::Number;

 public:
  Part(const RecurrentGradArgs& args, int64_t item, const Ctx& ctx)
      : a(args),
        at(args, P::backward_room(args), ctx.scratch),
        n(a.hidden),
        width(a.gates * n),
        index(item),
        products(args, at.room, ctx) {}

  template <class C>
  void walk(const Strip& strip) {
    for (int i = 0; i < strip.rows; ++i) {
      copy_or_zero(row_of<T>(a.g_h, strip.first + i, n), at.dh + i * n, n);
      if (at.dc) copy_or_zero(row_of<T>(a.g_c, strip.first + i, n), at.dc + i * n, n);
      clear_steps<T>(a, a.dx, strip, i, a.inputs);
    }
    for (int64_t s = strip.longest - 1; s >= 0; --s) {
      if (gathered + strip.rows > kGathered) finish();
      Product<T> product;
      for (int i = 0; i < strip.rows; ++i)
        if (s < strip.length[i]) product.add(step<C>(strip, i, s), at.dh + i * n);
      products.multiply(product, a.weight_hh, width, n, {nullptr, C::kAdds});
    }
    for (int i = 0; i < strip.rows; ++i) {
      copy_or_zero<T>(at.dh + i * n, row_of<T>(a.dh0, strip.first + i, n), n);
      if (at.dc) copy_or_zero<T>(at.dc + i * n, row_of<T>(a.dc0, strip.first + i, n), n);
    }
  }

  // Makes of what has gathered gradients of the input and of the weights.
  void finish() {
    for (int from = 0; a.dx && from < gathered; from += kProductRows) {
      Product<T> product;
      for (int k = from; k < least(from + kProductRows, gathered); ++k) product.add(at.of_inputs + k * at.lead, dx[k]);
      products.multiply(product, a.weight_ih, width, a.inputs, {});
    }
    products.take_gates({at.of_inputs, at.lead, width, gathered});
    products.add_outer(at.x, a.inputs, row_of<T>(a.dweight_ih, index, width * a.inputs), has_sums);
    if (at.of_states != at.of_inputs) products.take_gates({at.of_states, at.lead, width, gathered});
    products.add_outer(at.h, n, row_of<T>(a.dweight_hh, index, width * n), has_sums);
    add_rows(at.of_inputs, row_of<T>(a.dbias_ih, index, width));
    if (a.dbias_hh) add_rows(at.of_states, row_of<T>(a.dbias_hh, index, width));
    gathered = 0;
    has_sums = true;
  }

 private:
  // One row's step; returns the gradients of the products of its state.
  template <class C>
  const T* step(const Strip& strip, int i, int64_t s) {
    using V = Vec<T>;
    const int64_t place = strip.place(a, i, s), kept = strip.kept(a, i, s), first = strip.first + i;
    const T* h = s > 0 ? row_of<T>(a.y, strip.place(a, i, s - 1), n) : row_of<T>(a.h0, first, n);
    const T* c = s > 0 ? row_of<T>(a.cell_t, strip.kept(a, i, s - 1), n) : row_of<T>(a.c0, first, n);
    Row<T> row{};
    row.gates = row_of<T>(a.gates_t, kept, width);
    row.cell = row_of<T>(a.cell_t, kept, n);
    row.before = a.cell == Cell::kLstm ? c : h;
    row.y = row_of<T>(a.y, place, n);
    row.g_y = row_of<T>(a.g_y, place, n);
    row.dh = at.dh + i * n;
    row.dc = at.dc + i * n;
    row.of_inputs = at.of_inputs + gathered * at.lead;
    row.of_states = at.of_states + gathered * at.lead;
    // What the next step reads of this row, of c and h what the one behind it does.
    const int64_t next = most(s - 1, 0), after = most(s - 2, 0);
    const auto fetch = [](const T* from, int64_t count) {
      for (int64_t j = 0; from && j < count; j += kPackWidth<T>) __builtin_prefetch(from + j, 0, 2);
    };
    fetch(row_of<T>(a.gates_t, strip.kept(a, i, next), width), width);
    fetch(row_of<T>(a.cell_t, strip.kept(a, i, after), n), n);
    fetch(row_of<T>(a.y, strip.place(a, i, after), n), n);
    fetch(row_of<T>(a.g_y, strip.place(a, i, next), n), n);
    fetch(row_of<T>(a.x, strip.place(a, i, next), a.inputs), a.inputs);
    for_lanes<V>(n, [&](int64_t j, int lanes) { C::template step<V>(row, n, j, lanes); });
    P::gather(row_of<T>(a.x, place, a.inputs), a.inputs, gathered, at.x);
    P::gather(h, n, gathered, at.h);
    dx[gathered++] = row_of<T>(a.dx, place, a.inputs);
    return row.of_states;
  }

  // sums (+)= the gathered rows of g.
  void add_rows(const T* g, T* sums) {
    using V = Vec<T>;
    for_lanes<V>(width, [&](int64_t j, int lanes) {
      const V total = sum_rows<V>(gathered, [&](int64_t k) { return get<V>(g + k * at.lead + j, lanes); });
      put(has_sums ? get<V>(sums + j, lanes) + total : total, sums + j, lanes);
    });
  }

  const RecurrentGradArgs& a;
  const Scratch<T> at;
  const int64_t n, width, index;
  P products;
  T* dx[kGathered];
  int gathered = 0;
  bool has_sums = false;
};

template <class P, class T = typename P::Number>
void run(const RecurrentGradArgs& a, int64_t item, const Ctx& ctx) {
  Part<P> part(a, item, ctx);
  const int64_t strips = ceil_div(a.rows, a.strip);
  for (int64_t number = strips * item / a.parts; number < strips * (item + 1) / a.parts; ++number) {
    const Strip strip(a, a.lengths, number);
    switch (a.cell) {
      case Cell::kLstm:
        part.template walk<Lstm<T>>(strip);
        break;
      case Cell::kGru:
        part.template walk<Gru<T>>(strip);
        break;
      case Cell::kRnnTanh:
        part.template walk<Rnn<T, Activation::kTanh>>(strip);
        break;
      case Cell::kRnnRelu:
        part.template walk<Rnn<T, Activation::kRelu>>(strip);
        break;
    }
  }
  part.finish();
}

template <class P>
int64_t scratch_bytes(const RecurrentGradArgs& a) {
  return Scratch<typename P::Number>(a, P::backward_room(a), nullptr).used;
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
