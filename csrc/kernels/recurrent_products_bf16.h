// The products of a recurrent layer in bfloat16 with sums in float32: what recurrent_products.h does, on the dot
// objects of gemm_bf16.cpp, whose sums come through an L1 buffer. Operands are rounded just before: rows of inputs,
// states and gradients of gates are narrowed into scratch as they come, which takes a few percent of the product.
//
// An output is the sum over its K in the order of the dot object, whatever rows are beside it.
#pragma once
#include <cstddef>

#include "kernels/recurrent_walk.h"
#include "kernels/scratch.h"
#include "kernels/simd/bf16.h"
#include "kernels/strip_bf16.h"

namespace quernel::QUERNEL_ISA {

Status pack_bf16(const Bf16PackArgs& p, Range range, const Ctx& ctx);

namespace {

class Bf16Products {
 public:
  using Number = float;

  static int64_t forward_room(const RecurrentArgs& a) { return Room(most(a.inputs, a.hidden), 0, 0, nullptr).used; }
  static int64_t backward_room(const RecurrentGradArgs& a) {
    return Room(a.gates * a.hidden, a.gates * a.hidden, most(a.inputs, a.hidden), nullptr).used;
  }

  Bf16Products(const RecurrentArgs& a, std::byte* room, const Ctx& ctx)
      : at_(most(a.inputs, a.hidden), 0, 0, room), context_(ctx), dot_(ctx) {}
  Bf16Products(const RecurrentGradArgs& a, std::byte* room, const Ctx& ctx)
      : at_(a.gates * a.hidden, a.gates * a.hidden, most(a.inputs, a.hidden), room), context_(ctx), dot_(ctx) {}

  // c (+)= a B + bias for columns B[depth, cols].
  void multiply(const Product<float>& p, const void* columns, int64_t depth, int64_t cols,
                const Finishing<float>& how) {
    const int64_t k = padded_depth(depth), panels = ceil_div(cols, kBf16Columns);
    for (int i = 0; i < p.rows; ++i) {
      narrow(p.a[i], at_.rows + i * k, depth);
      __builtin_memset(at_.rows + i * k + depth, 0, static_cast<size_t>(k - depth) * 2);
    }
    const int strips = static_cast<int>(ceil_div(p.rows, kBf16Strip));
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = (how.backwards ? panels - 1 - panel : panel) * kBf16Columns;
      for (int strip = 0; strip < strips; ++strip) {
        const int from = p.rows * strip / strips, height = p.rows * (strip + 1) / strips - from;
        const Place place{from * k, height, first, static_cast<int>(least(kBf16Columns, cols - first))};
        multiply_panel(at_.rows, place, columns, k);
        for (int i = 0; i < height; ++i)
          finish_row(i, place.cols, how.bias ? how.bias + first : nullptr, how.accumulate, p.c[from + i] + first);
      }
    }
  }

  // A row of those whose outer products with gradients of gates are summed, as it is. null: zeros.
  static void gather(const float* from, int64_t cols, int row, float* to) {
    copy_or_zero(from, to + row * lead_of(cols), cols);
  }

  // The gradients of gates that the next add_outer() takes: gates become rows, as far as whole blocks of k, with zeros.
  void take_gates(const GatheredGates<float>& g) {
    gates_ = g;
    clear_behind(g.g, g.lead, g.width);
    pack(g.g, g.lead, g.width, false, at_.gates);
  }

  // sums[gate][j] (+)= the gathered rows' g[gate] · b[j].
  void add_outer(float* b, int64_t cols, float* sums, bool adds) {
    const int64_t k = padded_depth(gates_.rows), strips = ceil_div(gates_.width, kBf16Strip);
    clear_behind(b, lead_of(cols), cols);
    pack(b, lead_of(cols), cols, true, at_.columns);
    for (int64_t first = 0; first < cols; first += kBf16Columns)
      for (int64_t strip = 0; strip < strips; ++strip) {
        const int64_t from = gates_.width * strip / strips, to = gates_.width * (strip + 1) / strips;
        const Place place{from * k, static_cast<int>(to - from), first,
                          static_cast<int>(least(kBf16Columns, cols - first))};
        multiply_panel(at_.gates, place, at_.columns, k);
        for (int i = 0; i < place.height; ++i)
          finish_row(i, place.cols, nullptr, adds, sums + (from + i) * cols + first);
      }
  }

 private:
  // Rounded operands: rows of a product, and of the sums over gathered rows both sides.
  struct Room {
    uint16_t* rows = nullptr;
    uint16_t* gates = nullptr;
    uint16_t* columns = nullptr;
    int64_t used = 0;

    Room(int64_t depth, int64_t width, int64_t cols, void* memory) {
      Carver carver(memory);
      carver.take(rows, kProductRows * padded_depth(depth));
      carver.take(gates, kGathered * width);
      carver.take(columns, kGathered * ceil_div(cols, kBf16Group) * kBf16Group);
      used = carver.used();
    }
  };

  // Rows of A, and columns of B from `first` on.
  struct Place {
    int64_t row;  // in elements
    int height;
    int64_t first;
    int cols;
  };

  static int64_t lead_of(int64_t cols) { return ceil_div(cols, kPackWidth<float>) * kPackWidth<float>; }

  void multiply_panel(const uint16_t* rows, const Place& place, const void* columns, int64_t k) {
    dot_(rows + place.row, k, place.height, static_cast<const uint16_t*>(columns) + place.first * k, k,
         static_cast<int>(ceil_div(place.cols, kBf16Group)), acc_);
  }

  void finish_row(int row, int cols, const float* bias, bool accumulate, float* c) const {
    const float* sums = acc_ + row * kBf16Columns;
    for_lanes<VecF32>(cols, [&](int64_t j, int lanes) {
      VecF32 sum = get<VecF32>(sums + j, lanes);
      if (bias) sum = sum + get<VecF32>(bias + j, lanes);
      if (accumulate) sum = sum + get<VecF32>(c + j, lanes);
      put(sum, c + j, lanes);
    });
  }

  // Zeros in the gathered rows behind the last one, up to whole blocks.
  void clear_behind(float* from, int64_t lead, int64_t cols) const {
    for (int64_t row = gates_.rows; row < padded_depth(gates_.rows); ++row)
      copy_or_zero<float>(nullptr, from + row * lead, cols);
  }

  // The transpose of gathered rows, rounded.
  void pack(const float* from, int64_t lead, int64_t cols, bool as_columns, uint16_t* to) const {
    Bf16PackArgs p;
    p.src = from;
    p.dst = to;
    p.dtype = DType::kFloat32;
    p.as_columns = as_columns;
    p.rows = cols;
    p.k = padded_depth(gates_.rows);
    p.src_row = 1;
    p.src_k = lead;
    pack_bf16(p, {0, ceil_div(cols, kBf16Group)}, context_);
  }

  const Room at_;
  const Ctx& context_;
  StripDot dot_;
  GatheredGates<float> gates_{};
  alignas(64) float acc_[kBf16Strip * kBf16Columns];
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
