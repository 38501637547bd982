// Recurrent layers, backward through time. A strip of rows walks from its last step to its first. At each one the
// gradients of the gates come from those of the state; they are written where the products of weights and inputs will
// find them and, once more, into scratch in L1, whose product with the packed weight is the gradient of the state
// before. (From the result itself the product would read rows that lie a power of two apart, in few sets of L1.) Their
// sums over the strip, which become the gradients of the biases, are kept on the way.
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
  T* of_inputs;
  T* of_states;
  T* scratch;  // gradients of the products of the states
  T* sum_inputs;
  T* sum_states;
};

template <class V, class T = typename V::Scalar>
inline void add_to(T* sum, V v, int lanes) {
  put(get<V>(sum, lanes) + v, sum, lanes);
}

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
    const auto result = [&](int64_t k, V v) {
      put(v, r.of_inputs + k * n + j, lanes);
      put(v, r.scratch + k * n + j, lanes);
      add_to(r.sum_inputs + k * n + j, v, lanes);
    };
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
      put(state, row.scratch + k * n + j, lanes);
      add_to(row.sum_inputs + k * n + j, input, lanes);
      add_to(row.sum_states + k * n + j, state, lanes);
    };
    const V r = gate(0), z = gate(1), candidate = gate(2);
    const V dh = get<V>(row.dh + j, lanes) + get_or_zero<V>(row.g_y, j, lanes);
    const V dn = dh * (one - z) * fma(-candidate, candidate, one);
    const V dr = dn * get<V>(row.cell + j, lanes) * (r * (one - r));
    const V dz = dh * (get<V>(row.before + j, lanes) - candidate) * (z * (one - z));
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
    put(d, r.scratch + j, lanes);
    add_to(r.sum_inputs + j, d, lanes);
  }
};

template <class T>
struct Scratch {
  T* dh = nullptr;
  T* dc = nullptr;
  T* gates = nullptr;
  int64_t used = 0;

  Scratch(const RecurrentGradArgs& a, void* at) {
    Carver carver(at);
    carver.take(dh, a.strip * a.hidden);
    if (a.cell == Cell::kLstm) carver.take(dc, a.strip * a.hidden);
    carver.take(gates, a.strip * a.gates * a.hidden);
    used = carver.used();
  }
};

template <class T>
Row<T> row_at(const RecurrentGradArgs& a, const Strip& strip, const Scratch<T>& at, int i, int64_t s) {
  const int64_t n = a.hidden, width = a.gates * n, place = strip.place(a, i, s);
  Row<T> row{};
  row.gates = row_of<T>(a.gates_t, place, width);
  row.cell = row_of<T>(a.cell_t, place, n);
  if (a.cell == Cell::kLstm)
    row.before = s > 0 ? row_of<T>(a.cell_t, strip.place(a, i, s - 1), n) : row_of<T>(a.c0, strip.first + i, n);
  else
    row.before = row_of<T>(a.h_prev, place, n);
  row.y = row_of<T>(a.y, place, n);
  row.g_y = row_of<T>(a.g_y, place, n);
  row.dh = at.dh + i * n;
  row.dc = at.dc + i * n;
  row.of_inputs = row_of<T>(a.of_inputs, place, width);
  row.of_states = row_of<T>(a.of_states, place, width);
  row.scratch = at.gates + i * width;
  row.sum_inputs = row_of<T>(a.sum_inputs, strip.item, width);
  row.sum_states = row_of<T>(a.sum_states, strip.item, width);
  return row;
}

template <class T, class C>
void walk(const RecurrentGradArgs& a, const Strip& strip, const Scratch<T>& at) {
  using V = Vec<T>;
  const int64_t n = a.hidden, width = a.gates * n;
  for (int i = 0; i < strip.rows; ++i) {
    copy_or_zero(row_of<T>(a.g_h, strip.first + i, n), at.dh + i * n, n);
    if (at.dc) copy_or_zero(row_of<T>(a.g_c, strip.first + i, n), at.dc + i * n, n);
    clear_steps<T>(a, a.of_inputs, strip, i, width);
    clear_steps<T>(a, a.of_states, strip, i, width);
  }
  copy_or_zero<T>(nullptr, row_of<T>(a.sum_inputs, strip.item, width), width);
  if (a.sum_states) copy_or_zero<T>(nullptr, row_of<T>(a.sum_states, strip.item, width), width);
  for (int64_t s = strip.longest - 1; s >= 0; --s) {
    Product<T> product;
    for (int i = 0; i < strip.rows; ++i) {
      if (s >= strip.length[i]) continue;
      const Row<T> row = row_at(a, strip, at, i, s);
      int64_t j = 0;
      for (; j + V::kWidth <= n; j += V::kWidth) C::template step<V>(row, n, j, V::kWidth);
      if (j < n) C::template step<V>(row, n, j, static_cast<int>(n - j));
      product.add(row.scratch, row.dh);
    }
    multiply(product, static_cast<const T*>(a.weight_hh), width, n, Finishing<T>{nullptr, C::kAdds});
  }
  for (int i = 0; i < strip.rows; ++i) {
    copy_or_zero<T>(at.dh + i * n, row_of<T>(a.dh0, strip.first + i, n), n);
    if (at.dc) copy_or_zero<T>(at.dc + i * n, row_of<T>(a.dc0, strip.first + i, n), n);
  }
}

template <class T>
void run(const RecurrentGradArgs& a, int64_t item, void* memory) {
  const Strip strip(a, a.lengths, item);
  const Scratch<T> scratch(a, memory);
  switch (a.cell) {
    case Cell::kLstm:
      return walk<T, Lstm<T>>(a, strip, scratch);
    case Cell::kGru:
      return walk<T, Gru<T>>(a, strip, scratch);
    case Cell::kRnnTanh:
      return walk<T, Rnn<T, Activation::kTanh>>(a, strip, scratch);
    case Cell::kRnnRelu:
      return walk<T, Rnn<T, Activation::kRelu>>(a, strip, scratch);
  }
}

}  // namespace

Status recurrent_grad(const RecurrentGradArgs& a, Range range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = range.begin; item < range.end; ++item) run<T>(a, item, ctx.scratch);
  });
  return {};
}

int64_t recurrent_grad_scratch(const RecurrentGradArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) { bytes = Scratch<T>(a, nullptr).used; });
  return bytes;
}

}  // namespace quernel::QUERNEL_ISA
