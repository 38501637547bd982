// The products of a recurrent layer in the dtype of its operands, on register tiles. Both directions take what makes
// their products as a type, of this interface; the other one is recurrent_products_bf16.h's.
#pragma once
#include <cstddef>

#include "kernels/gemm_tile.h"
#include "kernels/recurrent_walk.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
class OwnProducts {
 public:
  using Number = T;

  // Bytes of scratch.
  static int64_t forward_room(const RecurrentArgs&) { return 0; }
  static int64_t backward_room(const RecurrentGradArgs&) { return 0; }

  template <class Args>
  OwnProducts(const Args&, std::byte*, const Ctx&) {}

  // c (+)= a B + bias for packed B[depth, cols]. A panel of B is read from L2 once for all rows. (Panels as narrow as a
  // tile, which stay in L1 however deep they are, took 2 to 4 % longer forward.)
  void multiply(const Product<T>& p, const void* packed, int64_t depth, int64_t cols, const Finishing<T>& how) {
    const T* b = static_cast<const T*>(packed);
    const Run run{0, 0, depth};
    const int64_t panels = ceil_div(cols, kPanel);
    const int tiles = static_cast<int>(ceil_div(p.rows, kTileRows));
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = (how.backwards ? panels - 1 - panel : panel) * kPanel;
      const TileFinish<T> finish{how.bias ? how.bias + first : nullptr, nullptr, nullptr, Activation::kNone};
      const int width = static_cast<int>(least(kPanel, cols - first));
      for (int tile = 0; tile < tiles; ++tile) {
        const int from = p.rows * tile / tiles, height = p.rows * (tile + 1) / tiles - from;
        T* c[kTileRows];
        for (int i = 0; i < height; ++i) c[i] = p.c[from + i] + first;
        multiply_tile(Tile<T>{p.a + from, b + first * depth, c, &run, 1, false, 1, kPackWidth<T>, depth * kPackWidth<T>,
                              height, width, how.accumulate, how.bias ? &finish : nullptr});
      }
    }
  }

  // A row of those whose outer products with gradients of gates are summed: packed B, [group of w columns][row][w].
  // null: zeros.
  static void gather(const T* from, int64_t cols, int row, T* to) {
    using V = Vec<T>;
    constexpr int64_t kWidth = kPackWidth<T>;
    for_lanes<V>(cols, [&](int64_t j, int lanes) {
      T* at = to + (j / kWidth * kGathered + row) * kWidth + j % kWidth;
      put(from ? get<V>(from + j, lanes) : V::zero(), at, lanes);
    });
  }

  // The gradients of gates that the next add_outer() takes.
  void take_gates(const GatheredGates<T>& g) { gates_ = g; }

  // sums[gate][j] (+)= the gathered rows' g[gate] · b[j].
  void add_outer(T* b, int64_t cols, T* sums, bool adds) {
    const Run run{0, 0, gates_.rows};
    const int64_t width = gates_.width, tiles = ceil_div(width, kTileRows), group = kGathered * kPackWidth<T>;
    for (int64_t first = 0; first < cols; first += kPanel)
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t from = width * tile / tiles, to = width * (tile + 1) / tiles;
        const T* rows[kTileRows];
        T* c[kTileRows];
        for (int64_t i = from; i < to; ++i) {
          rows[i - from] = gates_.g + i;
          c[i - from] = sums + i * cols + first;
        }
        multiply_tile(Tile<T>{rows, b + first / kPackWidth<T> * group, c, &run, 1, false, gates_.lead, kPackWidth<T>,
                              group, static_cast<int>(to - from), static_cast<int>(least(kPanel, cols - first)), adds});
      }
  }

 private:
  GatheredGates<T> gates_{};
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
