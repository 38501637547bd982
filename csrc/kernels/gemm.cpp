// Matrix products. An item is a strip of rows times a panel of 64 columns; consecutive items walk down one panel, so
// that B stays in L2 while A streams past it at a byte per cycle. K is cut into blocks of at most 4 KB of a row: six
// rows of A stay in L1, a panel of B (256 KB) in L2. Between blocks the accumulators rest in C, which loses nothing:
// each output remains one chain of FMAs over k, whatever the strip, the block or the thread.
//
// Where there is only one strip, B may be packed here, in blocks of 1 KB of a row of A, 64 KB of B (smaller ones, which
// fit L1, were slower): it is not written to memory and read again. Keeping 16 columns of B in L1 for all rows of a
// strip, with A from L2, was no faster on AVX2 than taking B from L2.
#include "kernels/args/matmul.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"
#include "kernels/pack_block.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kBlockBytes = 4096;        // of a row of A
constexpr int64_t kPackedBlockBytes = 1024;  // of a row of A, where B is packed in scratch: 64 KB

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
int64_t block_depth(const GemmArgs& g) {
  return (g.pack ? kPackedBlockBytes : kBlockBytes) / static_cast<int64_t>(sizeof(T));
}

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
void multiply_strip(const GemmArgs& g, const Operands<T>& p, int64_t row, int64_t end, int64_t first, T* scratch) {
  const int64_t blocks = most(1, ceil_div(g.k, block_depth<T>(g))), depth = ceil_div(g.k, blocks);
  const int64_t tiles = ceil_div(end - row, kTileRows), cols = least(g.n - first, kPanel);
  for (int64_t k = 0, block = 0; block < blocks; ++block, k += depth) {
    const T* b = p.b + k * g.b_row;
    int64_t ldb = g.b_row, group = g.group;
    const int64_t here = least(depth, g.k - k);
    if (g.pack) {
      ldb = kPackWidth<T>;
      group = here * ldb;
      pack_block<Vec<T>>(Unpacked<T>{b, here, g.b_row, g.b_col}, Packed<T>{scratch, group, cols});
      b = scratch;
    }
    const Run run{0, 0, here};
    for (int64_t tile = 0; tile < tiles; ++tile) {
      // Rows are dealt out evenly: 7 as 4 + 3, not 6 + 1.
      const int64_t from = row + (end - row) * tile / tiles, to = row + (end - row) * (tile + 1) / tiles;
      const T* a[kTileRows];
      T* c[kTileRows];
      for (int64_t i = from; i < to; ++i) {
        a[i - from] = p.a + i * g.a_row + k * g.a_col;
        c[i - from] = p.c + i * g.n;
      }
      const int rows = static_cast<int>(to - from), width = static_cast<int>(cols);
      multiply_tile(Tile<T>{a, b, c, &run, 1, false, g.a_col, ldb, group, rows, width, block > 0});
      if (block == blocks - 1) finish(Finish<T>{&g, static_cast<T*>(g.c), c, rows, width, first});
    }
  }
}

template <class T>
Status run(const GemmArgs& g, Range range, const Ctx& ctx) {
  const int64_t strips = ceil_div(g.m, g.strip), panels = ceil_div(g.n, kPanel);
  // Neighbouring strips of a panel are one: it is read once for all of them.
  for (int64_t item = range.begin, count; item < range.end; item += count) {
    const int64_t strip = item % strips, panel = item / strips % panels;
    count = least(strips - strip, range.end - item);
    Operands<T> p = batch_operands<T>(g, item / strips / panels);
    p.b += panel * (g.pack ? kPanel * g.b_col : kPanel / kPackWidth<T> * g.group);
    p.c += panel * kPanel;
    multiply_strip(g, p, strip * g.strip, least(g.m, (strip + count) * g.strip), panel * kPanel,
                   static_cast<T*>(ctx.scratch));
  }
  return {};
}

template <class T>
int64_t scratch_bytes(const GemmArgs& g) {
  return g.pack ? kPanel * least(g.k, block_depth<T>(g)) * static_cast<int64_t>(sizeof(T)) : 0;
}

}  // namespace

Status gemm_f32(const GemmArgs& args, Range range, const Ctx& ctx) { return run<float>(args, range, ctx); }
Status gemm_f64(const GemmArgs& args, Range range, const Ctx& ctx) { return run<double>(args, range, ctx); }

int64_t gemm_f32_scratch(const GemmArgs& args) { return scratch_bytes<float>(args); }
int64_t gemm_f64_scratch(const GemmArgs& args) { return scratch_bytes<double>(args); }

}  // namespace quernel::QUERNEL_ISA
