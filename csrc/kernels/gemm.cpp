// Matrix products. An item is a strip of rows times a panel of 64 columns; consecutive items walk down one panel, so
// that B stays in L2 while A streams past it at a byte per cycle. K is cut into blocks of at most 4 KB of a row: six
// rows of A stay in L1, a panel of B (256 KB) in L2. Between blocks the accumulators rest in C, which loses nothing:
// each output remains one chain of FMAs over k, whatever the strip, the block or the thread.
#include "kernels/args/matmul.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kBlockBytes = 4096;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
struct Operands {
  const T* a;
  const T* b;
  T* c;
};

template <class T>
Operands<T> batch_operands(const GemmArgs& g, int64_t batch) {
  Operands<T> p{static_cast<const T*>(g.a), static_cast<const T*>(g.b), static_cast<T*>(g.c) + batch * g.m * g.n};
  for (int d = g.batch_rank - 1; d >= 0; --d) {
    p.a += batch % g.batch_dims[d] * g.a_batch[d];
    p.b += batch % g.batch_dims[d] * g.b_batch[d];
    batch /= g.batch_dims[d];
  }
  return p;
}

// Rows [row, end) of one panel, whose pointers are at their first column; `first` is that column.
template <class T>
void multiply_strip(const GemmArgs& g, const Operands<T>& p, int64_t row, int64_t end, int64_t first) {
  const int64_t blocks = g.k > 0 ? ceil_div(g.k, kBlockBytes / static_cast<int64_t>(sizeof(T))) : 1;
  const int64_t depth = ceil_div(g.k, blocks);
  const int64_t tiles = ceil_div(end - row, kTileRows);
  const int cols = static_cast<int>(least(g.n - first, kPanel));
  for (int64_t k = 0, block = 0; block < blocks; ++block, k += depth) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      // Rows are dealt out evenly: 7 as 4 + 3, not 6 + 1.
      const int64_t from = row + (end - row) * tile / tiles, to = row + (end - row) * (tile + 1) / tiles;
      const T* a[kTileRows];
      T* c[kTileRows];
      for (int64_t i = from; i < to; ++i) {
        a[i - from] = p.a + i * g.a_row + k * g.a_col;
        c[i - from] = p.c + i * g.n;
      }
      const int rows = static_cast<int>(to - from);
      const Run run{0, 0, least(depth, g.k - k)};
      multiply_tile(Tile<T>{a, p.b + k * g.ldb, c, &run, 1, false, g.a_col, g.ldb, g.group, rows, cols, block > 0});
      if (block == blocks - 1) finish(Finish<T>{&g, static_cast<T*>(g.c), c, rows, cols, first});
    }
  }
}

template <class T>
Status run(const GemmArgs& g, Range range) {
  const int64_t strips = ceil_div(g.m, g.strip), panels = ceil_div(g.n, kPanel);
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t strip = item % strips, panel = item / strips % panels;
    Operands<T> p = batch_operands<T>(g, item / strips / panels);
    p.b += panel * (kPanel / kPackWidth<T>)*g.group;
    p.c += panel * kPanel;
    multiply_strip(g, p, strip * g.strip, least(g.m, (strip + 1) * g.strip), panel * kPanel);
  }
  return {};
}

}  // namespace

Status gemm_f32(const GemmArgs& args, Range range, const Ctx&) { return run<float>(args, range); }
Status gemm_f64(const GemmArgs& args, Range range, const Ctx&) { return run<double>(args, range); }

}  // namespace quernel::QUERNEL_ISA
