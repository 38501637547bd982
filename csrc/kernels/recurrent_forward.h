// Recurrent layers, forward. A strip of rows walks through time by itself, so that threads never wait for each other.
// The products of the inputs are made for a few steps at once, as many as fill register tiles, into scratch that stays
// in cache: as one matrix product of the whole sequence they went to memory and came back. A step is the product of its
// states with the packed weight and the arithmetic of the gates on both.
//
// What is kept for the gradient lies in the order of the walk, and what a step writes is fetched a step before: from
// batch 64 on it goes to memory, and row by row took 7 % longer. Of a batch's time without it the products take four
// fifths, at nine tenths of the FMA peak, and the functions of the gates most of the rest. A single row is bound by
// reading the weight from L2.
//
// Each of the two sums of a gate is one chain of FMAs, begun at 0 and finished with its bias: no bit depends on the
// strip or the batch.
#pragma once
#include "kernels/recurrent_walk.h"
#include "kernels/scratch.h"
#include "kernels/simd/gate.h"

namespace quernel::QUERNEL_ISA {
namespace {

// One row at one step. `h` and `c` become the new state; those kept for the gradient may be null. The sums are
// overwritten.
template <class T>
struct Row {
  const T* gx;
  T* sums;
  T* h;
  T* c;
  T* y;
  T* gates;
  T* cell;
};

// A step of each cell is two passes over the row, the second for the function of what the first has made: as one, the
// chain of two functions was too long for the CPU to overlap with the next register's (a third slower). n is the
// distance of gates.
template <class T>
struct Lstm {
  static constexpr int kGates = 4;
  template <class V>
  static void open(const Row<T>& r, int64_t n, int64_t j, int lanes) {
    const auto sum = [&](int64_t gate) {
      return get<V>(r.gx + gate * n + j, lanes) + get<V>(r.sums + gate * n + j, lanes);
    };
    const V i = gate_sigmoid(sum(0)), f = gate_sigmoid(sum(1)), g = gate_tanh(sum(2)), o = gate_sigmoid(sum(3));
    const V c = fma(f, get<V>(r.c + j, lanes), i * g);
    put(c, r.c + j, lanes);
    put(o, r.sums + 3 * n + j, lanes);
    if (!r.gates) return;
    put(i, r.gates + j, lanes);
    put(f, r.gates + n + j, lanes);
    put(g, r.gates + 2 * n + j, lanes);
    put(o, r.gates + 3 * n + j, lanes);
    put(c, r.cell + j, lanes);
  }
  template <class V>
  static void close(const Row<T>& r, int64_t n, int64_t j, int lanes) {
    const V h = get<V>(r.sums + 3 * n + j, lanes) * gate_tanh(get<V>(r.c + j, lanes));
    put(h, r.h + j, lanes);
    put(h, r.y + j, lanes);
  }
};

template <class T>
struct Gru {
  static constexpr int kGates = 3;
  template <class V>
  static void open(const Row<T>& row, int64_t n, int64_t j, int lanes) {
    const auto input = [&](int64_t gate) { return get<V>(row.gx + gate * n + j, lanes); };
    const auto state = [&](int64_t gate) { return get<V>(row.sums + gate * n + j, lanes); };
    const V r = gate_sigmoid(input(0) + state(0)), z = gate_sigmoid(input(1) + state(1)), product = state(2);
    put(z, row.sums + n + j, lanes);
    put(fma(r, product, input(2)), row.sums + 2 * n + j, lanes);
    if (!row.gates) return;
    put(r, row.gates + j, lanes);
    put(z, row.gates + n + j, lanes);
    put(product, row.cell + j, lanes);
  }
  template <class V>
  static void close(const Row<T>& row, int64_t n, int64_t j, int lanes) {
    const V z = get<V>(row.sums + n + j, lanes), candidate = gate_tanh(get<V>(row.sums + 2 * n + j, lanes));
    const V h = fma(z, get<V>(row.h + j, lanes) - candidate, candidate);
    if (row.gates) put(candidate, row.gates + 2 * n + j, lanes);
    put(h, row.h + j, lanes);
    put(h, row.y + j, lanes);
  }
};

template <class T, Activation kActivation>
struct Rnn {
  static constexpr int kGates = 1;
  template <class V>
  static void open(const Row<T>&, int64_t, int64_t, int) {}
  template <class V>
  static void close(const Row<T>& r, int64_t, int64_t j, int lanes) {
    const V sum = get<V>(r.gx + j, lanes) + get<V>(r.sums + j, lanes);
    const V h = kActivation == Activation::kTanh ? gate_tanh(sum) : relu(sum);
    put(h, r.h + j, lanes);
    put(h, r.y + j, lanes);
  }
};

template <class C, class T>
void step(const Row<T>& row, int64_t n) {
  using V = Vec<T>;
  for_lanes<V>(n, [&](int64_t j, int lanes) { C::template open<V>(row, n, j, lanes); });
  for_lanes<V>(n, [&](int64_t j, int lanes) { C::template close<V>(row, n, j, lanes); });
}

// The states and sums of a strip.
template <class T>
struct Scratch {
  T* h = nullptr;
  T* c = nullptr;
  T* sums = nullptr;
  T* gx = nullptr;  // the products of the inputs of some steps, [step][row]
  std::byte* room = nullptr;
  int64_t used = 0;

  Scratch(const RecurrentArgs& a, int64_t room_bytes, void* at) {
    Carver carver(at);
    carver.take(h, a.strip * a.hidden);
    if (a.cell == Cell::kLstm) carver.take(c, a.strip * a.hidden);
    carver.take(sums, a.strip * a.gates * a.hidden);
    carver.take(gx, kProductRows * a.gates * a.hidden);
    carver.take(room, room_bytes);
    used = carver.used();
  }
};

template <class T>
void begin(const RecurrentArgs& a, const Strip& strip, const Scratch<T>& at) {
  const int64_t n = a.hidden;
  for (int i = 0; i < strip.rows; ++i) {
    copy_or_zero(row_of<T>(a.h0, strip.first + i, n), at.h + i * n, n);
    if (at.c) copy_or_zero(row_of<T>(a.c0, strip.first + i, n), at.c + i * n, n);
    clear_steps<T>(a, a.y, strip, i, n);
  }
}

// The products of the inputs of steps [first, last).
template <class P, class T = typename P::Number>
void multiply_inputs(const RecurrentArgs& a, P& products, const Strip& strip, int64_t first, int64_t last, T* gx) {
  const int64_t width = a.gates * a.hidden;
  Product<T> product;
  for (int64_t s = first; s < last; ++s)
    for (int i = 0; i < strip.rows; ++i, gx += width)
      if (s < strip.length[i]) product.add(row_of<T>(a.x, strip.place(a, i, s), a.inputs), gx);
  products.multiply(product, a.weight_ih, a.inputs, width, {static_cast<const T*>(a.bias_ih)});
}

template <class C, class P, class T = typename P::Number>
void walk(const RecurrentArgs& a, P& products, const Strip& strip, const Scratch<T>& at) {
  const int64_t n = a.hidden, width = C::kGates * n, steps = kProductRows / strip.rows;
  begin(a, strip, at);
  for (int64_t s = 0; s < strip.longest; ++s) {
    if (s % steps == 0) multiply_inputs(a, products, strip, s, least(strip.longest, s + steps), at.gx);
    Product<T> product;
    for (int i = 0; i < strip.rows; ++i)
      if (s < strip.length[i]) product.add(at.h + i * n, at.sums + i * width);
    products.multiply(product, a.weight_hh, n, width, {static_cast<const T*>(a.bias_hh), false, s % 2 != 0});
    for (int i = 0; i < strip.rows; ++i) {
      if (s >= strip.length[i]) continue;
      const int64_t place = strip.place(a, i, s), kept = strip.kept(a, i, s);
      const Row<T> row{at.gx + (s % steps * strip.rows + i) * width,
                       at.sums + i * width,
                       at.h + i * n,
                       at.c + i * n,
                       row_of<T>(a.y, place, n),
                       row_of<T>(a.gates_t, kept, width),
                       row_of<T>(a.cell_t, kept, n)};
      // What the next step writes comes into cache meanwhile.
      const int64_t later = least(s + 1, strip.length[i] - 1), next = strip.kept(a, i, later);
      const auto fetch = [](T* to, int64_t count) {
        for (int64_t j = 0; to && j < count; j += kPackWidth<T>) __builtin_prefetch(to + j, 1, 2);
      };
      fetch(row_of<T>(a.y, strip.place(a, i, later), n), n);
      fetch(row_of<T>(a.gates_t, next, width), width);
      fetch(row_of<T>(a.cell_t, next, n), n);
      step<C>(row, n);
    }
  }
  for (int i = 0; i < strip.rows; ++i) {
    copy_or_zero<T>(at.h + i * n, row_of<T>(a.h_n, strip.first + i, n), n);
    if (at.c) copy_or_zero<T>(at.c + i * n, row_of<T>(a.c_n, strip.first + i, n), n);
  }
}

template <class P, class T = typename P::Number>
void run(const RecurrentArgs& a, int64_t item, const Ctx& ctx) {
  const Strip strip(a, a.lengths, item);
  const Scratch<T> scratch(a, P::forward_room(a), ctx.scratch);
  P products(a, scratch.room, ctx);
  switch (a.cell) {
    case Cell::kLstm:
      return walk<Lstm<T>>(a, products, strip, scratch);
    case Cell::kGru:
      return walk<Gru<T>>(a, products, strip, scratch);
    case Cell::kRnnTanh:
      return walk<Rnn<T, Activation::kTanh>>(a, products, strip, scratch);
    case Cell::kRnnRelu:
      return walk<Rnn<T, Activation::kRelu>>(a, products, strip, scratch);
  }
}

template <class P>
int64_t scratch_bytes(const RecurrentArgs& a) {
  return Scratch<typename P::Number>(a, P::forward_room(a), nullptr).used;
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
