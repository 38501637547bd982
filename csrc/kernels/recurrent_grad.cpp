// Recurrent layers, backward through time. A strip of rows walks from its last step to its first. At each one the
// gradients of the gates come from those of the state; they are written where the products of weights and inputs will
// find them and, once more, into scratch in L1, whose product with the packed weight is the gradient of the state
// before. (From the result itself the product would read rows that lie a power of two apart, in few sets of L1.)
#include "kernels/recurrent_walk.h"
#include "kernels/scratch.h"
#include "kernels/simd/math.h"

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
  T* dgx;
  T* recurrent;
  T* sums;  // gradients of the products of the state, which `recurrent` repeats
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
    const auto result = [&](int64_t k, V v) {
      put(v, r.dgx + k * n + j, lanes);
      put(v, r.sums + k * n + j, lanes);
    };
    const V i = gate(0), f = gate(1), g = gate(2), o = gate(3), y = tanh(get<V>(r.cell + j, lanes));
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
      put(input, row.dgx + k * n + j, lanes);
      put(state, row.recurrent + k * n + j, lanes);
      put(state, row.sums + k * n + j, lanes);
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
    put(d, r.dgx + j, lanes);
    put(d, r.sums + j, lanes);
  }
};

template <class T>
struct Scratch {
  T* dh = nullptr;
  T* dc = nullptr;
  T* sums = nullptr;
  int64_t used = 0;

  Scratch(const RecurrentGradArgs& a, void* at) {
    Carver carver(at);
    carver.take(dh, a.strip * a.hidden);
    if (a.cell == Cell::kLstm) carver.take(dc, a.strip * a.hidden);
    carver.take(sums, a.strip * a.gates * a.hidden);
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
  row.dgx = row_of<T>(a.dgx, place, width);
  row.recurrent = row_of<T>(a.recurrent, place, width);
  row.sums = at.sums + i * width;
  return row;
}

template <class T, class C>
void walk(const RecurrentGradArgs& a, const Strip& strip, const Scratch<T>& at) {
  using V = Vec<T>;
  const int64_t n = a.hidden, width = a.gates * n;
  for (int i = 0; i < strip.rows; ++i) {
    copy_or_zero(row_of<T>(a.g_h, strip.first + i, n), at.dh + i * n, n);
    if (at.dc) copy_or_zero(row_of<T>(a.g_c, strip.first + i, n), at.dc + i * n, n);
    clear_steps<T>(a, a.dgx, strip, i, width);
    clear_steps<T>(a, a.recurrent, strip, i, width);
  }
  for (int64_t s = strip.longest - 1; s >= 0; --s) {
    Product<T> product;
    for (int i = 0; i < strip.rows; ++i) {
      if (s >= strip.length[i]) continue;
      const Row<T> row = row_at(a, strip, at, i, s);
      int64_t j = 0;
      for (; j + V::kWidth <= n; j += V::kWidth) C::template step<V>(row, n, j, V::kWidth);
      if (j < n) C::template step<V>(row, n, j, static_cast<int>(n - j));
      product.add(row.sums, row.dh);
    }
    multiply<T>(product, static_cast<const T*>(a.weight), width, n, nullptr, C::kAdds);
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
