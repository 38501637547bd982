// Matrix products. An item is a strip of rows times some panels of 64 columns. K is cut into blocks of at most 8 KB of
// a row, rows into strips that stay in L2 (192 KB) while they meet one panel after the other. Between blocks the
// accumulators rest in C, which loses nothing: each output remains one chain of FMAs over k, whatever the strip, the
// block or the thread. How many panels an item has decides what is read again and again, see ops/matmul.cpp: one, and A
// streams past it at a byte per cycle, which is as good while A is near; several, and those panels are read again for
// each strip. At 2048^3 one panel was 15 % slower, for A comes from memory and each row of it lies on a page of its
// own; blocks of 4 KB were 5 % slower. Packing rows of A, 16 columns of B for all rows of a strip (in L1, as GotoBLAS
// has it), fetching the next panel or the next rows ahead: all measured equal or slower on AVX2.
//
// Where there is only one strip, B may be packed here, in blocks of 1 KB of a row of A, 64 KB of B (smaller ones, which
// fit L1, were slower): it is not written to memory and read again.
//
// A stored by columns takes a cache line for six elements, and lines that lie a power of two apart share few sets of
// L1: where an item spans several panels, it packs its rows of A first (3 to 10 % faster at K = 32 to 128).
//
// Tiles of short sums are multiplied several at a call, which takes as long as some ten products (AVX-512: 2 to 13 %
// faster at depths of 16 to 64; with AVX2, where each pass over the columns would read all their rows again, slower).
//
// A single row reads plain rows of B eight at a time, as far as they reach: panel by panel, each row of B beginning
// another page, took up to twice as long. The sums rest in C, which is in L1.
//
// At a depth of 8 or less a tile takes longer to begin than to multiply: one row of C is made at a time (about twice as
// fast at depths 1 and 3, a tenth or more at 8; at 16 it was slower). With AVX-512's registers, three or four vectors
// of columns of B stay there for all rows: 1.2 to 1.4 times as fast as reading them again, from depth 2 on.
//
// Few rows that meet a B stored by columns are gemm_columns.cpp's, few columns gemm_narrow.cpp's, a single row with
// many zeros gemm_zeros.cpp's.
#include <type_traits>
#include <utility>

#include "kernels/args/matmul.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_columns.h"
#include "kernels/gemm_narrow.h"
#include "kernels/gemm_tile.h"
#include "kernels/gemm_zeros.h"
#include "kernels/integers.h"
#include "kernels/pack_block.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kBlockBytes = 8192;                    // of a row of A
constexpr int64_t kStripBytes = 192 << 10;               // of rows of A
constexpr int64_t kLeastStripRows = 24;                  // whole tiles at every level
constexpr int64_t kPackedBlockBytes = 1024;              // of a row of A, where B is packed in scratch: 64 KB
constexpr int64_t kRowsAtOnce = 8;                       // of B, for a single row of A
constexpr int64_t kTiles = kTileCols == kPanel ? 8 : 1;  // at once, where one pass has a panel's columns,
constexpr int64_t kTilesBytes = 16384;                   // as many as have so much of A: L1

// Whether rows of A are packed: they lie apart, k by k, and several panels use them.
inline bool packs_rows(const GemmArgs& g) { return g.a_col != 1 && g.span > 1 && g.k > kShortDepth; }

// Rows of A in scratch.
inline int64_t packed_rows(const GemmArgs& g) {
  return packs_rows(g) ? ceil_div(least(g.strip, g.m), kTileRows) * kTileRows : 0;
}

template <class T>
int64_t block_depth(const GemmArgs& g) {
  return (g.pack || packs_rows(g) ? kPackedBlockBytes : kBlockBytes) / static_cast<int64_t>(sizeof(T));
}

// Rows that meet the panels of an item in turn: whole tiles of them, as many as stay in L2.
template <class T>
int64_t strip_rows(int64_t depth) {
  const int64_t fit = kStripBytes / (depth * static_cast<int64_t>(sizeof(T)));
  return (fit < kLeastStripRows ? kLeastStripRows : fit) / kLeastStripRows * kLeastStripRows;
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

// Part of the output: rows [row, end), columns [first, last).
struct Part {
  int64_t row, end, first, last;
};

// Six rows of A next to each other, k by k: [tile][depth][kTileRows].
template <class T>
void pack_rows(const T* a, const GemmArgs& g, int64_t rows, int64_t depth, T* to) {
  for (int64_t i = 0; i < rows; i += kTileRows, a += kTileRows * g.a_row) {
    const int64_t height = least(kTileRows, rows - i);
    const T* from = a;
    for (int64_t k = 0; k < depth; ++k, from += g.a_col, to += kTileRows) {
      if (height == kTileRows && g.a_row == 1) {
        __builtin_memcpy(to, from, kTileRows * sizeof(T));
      } else {
        for (int64_t r = 0; r < height; ++r) to[r] = from[r * g.a_row];
      }
    }
  }
}

// One block of K of a part, in one panel. Rows of A are where they are, or in `turned` as pack_rows() left them.
template <class T>
struct PanelBlock {
  const T* a;
  const T* turned;
  const T* b;
  int64_t depth, ldb, group, first, cols;
  bool begins, ends;  // the sums
};

template <class T>
void multiply_panel(const GemmArgs& g, T* output, const Part& part, const PanelBlock<T>& block) {
  const Run run{0, 0, block.depth};
  const bool in_tile = finishes_in_tile(g), afterwards = block.ends && !in_tile && !is_trivial(g);
  const TileFinish<T> epilogue = tile_finish<T>(g, g.c, block.first);
  const T* a[kTiles * kTileRows];
  T* c[kTiles * kTileRows];
  const int width = static_cast<int>(block.cols);
  Tile<T> tile{a, block.b, c, &run, 1, false, g.a_col, block.ldb, block.group, kTileRows, width, !block.begins};
  if (block.turned) tile.a_step = kTileRows;
  if (block.ends && in_tile) tile.finish = &epilogue;
  const int64_t bytes = block.depth * kTileRows * static_cast<int64_t>(sizeof(T));
  const int64_t most = bytes > kTilesBytes ? 1 : least(kTiles, kTilesBytes / bytes);
  int64_t row = 0;
  const auto add = [&](int64_t height, int64_t tiles) {
    tile.rows = static_cast<int>(height);
    for (; tiles > 0; tiles -= tile.tiles) {
      tile.tiles = least(tiles, most);
      const int rows = static_cast<int>(tile.tiles * height);
      for (int i = 0; i < rows; ++i, ++row) {
        const int64_t within = row % kTileRows;
        a[i] = block.turned ? block.turned + (row - within) * block.depth + within : block.a + row * g.a_row;
        c[i] = output + (part.row + row) * g.n + block.first;
      }
      multiply_tile(tile);
      if (afterwards) finish(Finish<T>{&g, static_cast<T*>(g.c), c, rows, width, block.first});
    }
  };
  const int64_t rows = part.end - part.row, tiles = ceil_div(rows, kTileRows);
  if (block.turned) {  // packed in full tiles
    add(kTileRows, rows / kTileRows);
    add(rows % kTileRows, rows % kTileRows > 0 ? 1 : 0);
  } else {  // dealt out evenly: 7 as 4 + 3, not 6 + 1
    add(rows / tiles + 1, rows % tiles);
    add(rows / tiles, tiles - rows % tiles);
  }
}

// One block of K of a strip, in all panels.
template <class T>
void multiply_strip(const GemmArgs& g, const Operands<T>& p, const Part& strip, PanelBlock<T> block, int64_t k,
                    T* scratch) {
  block.a = p.a + strip.row * g.a_row + k * g.a_col;
  if (packs_rows(g)) {
    block.turned = scratch;
    pack_rows(block.a, g, strip.end - strip.row, block.depth, scratch);
  }
  T* const packed = scratch + packed_rows(g) * block.depth;
  for (block.first = strip.first; block.first < strip.last; block.first += kPanel) {
    block.cols = least(strip.last - block.first, kPanel);
    block.b = p.b + k * g.b_row + (g.pack ? block.first * g.b_col : block.first / kPackWidth<T> * g.group);
    block.ldb = g.b_row;
    block.group = g.group;
    if (g.pack) {
      block.ldb = kPackWidth<T>;
      block.group = block.depth * block.ldb;
      pack_block<Vec<T>>(Unpacked<T>{block.b, block.depth, g.b_row, g.b_col},
                         Packed<T>{packed, block.group, block.cols});
      block.b = packed;
    }
    multiply_panel(g, p.c, strip, block);
  }
}

template <class T>
void multiply_part(const GemmArgs& g, const Operands<T>& p, const Part& part, T* scratch) {
  const int64_t blocks = ceil_div(g.k, block_depth<T>(g)), depth = ceil_div(g.k, blocks);
  const int64_t rows = g.pack ? part.end - part.row : strip_rows<T>(depth);
  for (int64_t k = 0; k < g.k; k += depth) {
    PanelBlock<T> block{};
    block.depth = least(depth, g.k - k);
    block.begins = k == 0;
    block.ends = k + depth >= g.k;
    for (int64_t row = part.row; row < part.end; row += rows)
      multiply_strip(g, p, Part{row, least(part.end, row + rows), part.first, part.last}, block, k, scratch);
  }
}

// c += kDepth elements of a row of A times as many plain rows of B.
template <class V, int kDepth, class T = typename V::Scalar>
inline void add_rows(const GemmArgs& g, const T* a, const T* b, int64_t cols, T* c) {
  V x[kDepth];
  const T* row[kDepth];
#pragma GCC unroll 8
  for (int k = 0; k < kDepth; ++k) {
    x[k] = V::set(a[k * g.a_col]);
    row[k] = b + k * g.b_row;
  }
  int64_t j = 0;
  for (; j + 2 * V::kWidth <= cols; j += 2 * V::kWidth) {
    V sum = V::load(c + j), other = V::load(c + j + V::kWidth);
#pragma GCC unroll 8
    for (int k = 0; k < kDepth; ++k) {
      sum = fma(x[k], V::load(row[k] + j), sum);
      other = fma(x[k], V::load(row[k] + j + V::kWidth), other);
    }
    sum.store(c + j);
    other.store(c + j + V::kWidth);
  }
  for_lanes<V>(cols - j, [&](int64_t i, int lanes) {
    V sum = get<V>(c + j + i, lanes);
#pragma GCC unroll 8
    for (int k = 0; k < kDepth; ++k) sum = fma(x[k], get<V>(row[k] + j + i, lanes), sum);
    put(sum, c + j + i, lanes);
  });
}

template <class T>
void multiply_row(const GemmArgs& g, const Operands<T>& p, const Part& part) {
  using V = Vec<T>;
  const int64_t cols = part.last - part.first;
  T* c = p.c + part.first;
  const T* b = p.b + part.first;
  __builtin_memset(c, 0, static_cast<size_t>(cols) * sizeof(T));
  int64_t k = 0;
  for (; k + kRowsAtOnce <= g.k; k += kRowsAtOnce)
    add_rows<V, kRowsAtOnce>(g, p.a + k * g.a_col, b + k * g.b_row, cols, c);
  for (; k < g.k; ++k) add_rows<V, 1>(g, p.a + k * g.a_col, b + k * g.b_row, cols, c);
  finish(Finish<T>{&g, static_cast<T*>(g.c), &c, 1, static_cast<int>(cols), part.first});
}

// One row after the other, whose chains are too short for tiles to pay; with one vector only `lanes` of it.
template <class V, int kVecs, class T = typename V::Scalar>
void multiply_short(const GemmArgs& g, const Operands<T>& p, const Part& part, int64_t col, int lanes) {
  const auto offset = [&](int64_t j) { return j / kPackWidth<T> * g.group + j % kPackWidth<T>; };
  const T* b = p.b + offset(col);
  for (int64_t i = part.row; i < part.end; ++i) {
    const T* a = p.a + i * g.a_row;
    V acc[kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[j] = V::zero();
    for (int64_t k = 0; k < g.k; ++k) {
      const V x = V::set(a[k * g.a_col]);
      const T* row = b + k * g.b_row;
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j)
        acc[j] = fma(x, kVecs == 1 ? get<V>(row, lanes) : V::load(row + offset(j * V::kWidth)), acc[j]);
    }
    T* c = p.c + i * g.n + col;
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      if (kVecs == 1)
        put(acc[j], c, lanes);
      else
        acc[j].store(c + j * V::kWidth);
    }
  }
}

// The same where B's part, of so many vectors the last of which has `lanes` lanes, stays in registers for all rows.
template <class V, int kDepth, int kVecs, class T = typename V::Scalar>
void multiply_held(const GemmArgs& g, const Operands<T>& p, const Part& part, int64_t col, int lanes) {
  const auto offset = [&](int64_t j) { return j / kPackWidth<T> * g.group + j % kPackWidth<T>; };
  V b[kDepth][kVecs];
#pragma GCC unroll 8
  for (int k = 0; k < kDepth; ++k) {
    const T* row = p.b + k * g.b_row;
#pragma GCC unroll 4
    for (int j = 0; j < kVecs - 1; ++j) b[k][j] = V::load(row + offset(col + j * V::kWidth));
    b[k][kVecs - 1] = V::load(row + offset(col + (kVecs - 1) * V::kWidth), lanes);
  }
  const T* a = p.a + part.row * g.a_row;
  T* c = p.c + part.row * g.n + col;
  for (int64_t i = part.row; i < part.end; ++i, a += g.a_row, c += g.n) {
    V acc[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[j] = V::zero();
#pragma GCC unroll 8
    for (int k = 0; k < kDepth; ++k) {
      const V x = V::set(a[k * g.a_col]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[j] = fma(x, b[k][j], acc[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVecs - 1; ++j) acc[j].store(c + j * V::kWidth);
    put(acc[kVecs - 1], c + (kVecs - 1) * V::kWidth, lanes);
  }
}

template <class V, int kDepth, class T = typename V::Scalar>
void multiply_held(const GemmArgs& g, const Operands<T>& p, const Part& part, int64_t col) {
  constexpr int kMost = kDepth <= 6 ? 4 : 3;  // vectors that fit beside their sums into 32 registers
  while (col < part.last) {
    const int64_t left = ceil_div(part.last - col, V::kWidth), vecs = left < kMost ? left : kMost;
    const int lanes = static_cast<int>(least(V::kWidth, part.last - col - (vecs - 1) * V::kWidth));
    if (vecs == 1)
      multiply_held<V, kDepth, 1>(g, p, part, col, lanes);
    else if (vecs == 2)
      multiply_held<V, kDepth, 2>(g, p, part, col, lanes);
    else if (vecs == 3)
      multiply_held<V, kDepth, 3>(g, p, part, col, lanes);
    else
      multiply_held<V, kDepth, kMost>(g, p, part, col, lanes);
    col += vecs * V::kWidth;
  }
}

template <class V, int... kDepth, class T = typename V::Scalar>
void multiply_held(const GemmArgs& g, const Operands<T>& p, const Part& part, int64_t col,
                   std::integer_sequence<int, kDepth...>) {
  ((g.k == kDepth + 1 ? multiply_held<V, kDepth + 1>(g, p, part, col) : void()), ...);
}

template <class T>
void multiply_short(const GemmArgs& g, const Operands<T>& p, const Part& part) {
  using V = Vec<T>;
  int64_t col = part.first;
  const auto cover = [&]<int kVecs>(std::integral_constant<int, kVecs>) {
    for (; col + kVecs * V::kWidth <= part.last; col += kVecs * V::kWidth) multiply_short<V, kVecs>(g, p, part, col, 0);
  };
  if (sizeof(V) < 64 || g.k <= 1) cover(std::integral_constant<int, 8>());
  if constexpr (sizeof(V) == 64) {  // of which there are 32 registers
    multiply_held<V>(g, p, part, col, std::make_integer_sequence<int, static_cast<int>(kShortDepth)>());
    if (g.k > 0) col = part.last;
  }
  cover(std::integral_constant<int, 4>());
  cover(std::integral_constant<int, 2>());
  for (; col < part.last; col += V::kWidth)
    multiply_short<V, 1>(g, p, part, col, static_cast<int>(least(V::kWidth, part.last - col)));
  for (int64_t i = part.row; !is_trivial(g) && i < part.end; ++i) {
    T* c = p.c + i * g.n + part.first;
    finish(Finish<T>{&g, static_cast<T*>(g.c), &c, 1, static_cast<int>(part.last - part.first), part.first});
  }
}

template <class T>
Status run(const GemmArgs& g, Range range, const Ctx& ctx) {
  const int64_t strips = ceil_div(g.m, g.strip), span = g.span * kPanel, spans = ceil_div(g.n, span);
  const Nonzeros nonzeros = g.skip_zeros ? find_nonzeros(g, static_cast<const T*>(g.a), ctx.scratch) : Nonzeros();
  // Neighbouring strips of a panel are one: it is read once for all of them.
  for (int64_t item = range.begin, count; item < range.end; item += count) {
    const int64_t strip = item % strips, first = item / strips % spans * span;
    count = packs_rows(g) ? 1 : least(strips - strip, range.end - item);
    const Operands<T> p = batch_operands<T>(g, item / strips / spans);
    const Part part{strip * g.strip, least(g.m, (strip + count) * g.strip), first, least(g.n, first + span)};
    if (nonzeros.index && multiply_nonzeros(g, nonzeros, {p.a, p.b, p.c, first, part.last})) continue;
    if (g.k <= kShortDepth)
      multiply_short(g, p, part);
    else if (is_narrow(g))
      multiply_narrow(g, NarrowRows<T>{p.a + part.row * g.a_row, p.b, p.c + part.row * g.n, part.end - part.row},
                      ctx.scratch);
    else if (is_by_columns(g))
      multiply_columns(g, ColumnsPart<T>{p.a, p.b, p.c, first, part.last}, ctx.scratch);
    else if (g.m == 1 && g.n > kPanel && g.b_row == g.n)
      multiply_row(g, p, part);
    else
      multiply_part(g, p, part, static_cast<T*>(ctx.scratch));
  }
  return {};
}

template <class T>
int64_t scratch_bytes(const GemmArgs& g) {
  if (is_narrow(g)) return narrow_scratch(g, T{});
  if (g.skip_zeros) return nonzeros_scratch(g);
  if (is_by_columns(g)) return columns_scratch(g, T{});
  return ((g.pack ? kPanel : 0) + packed_rows(g)) * least(g.k, block_depth<T>(g)) * static_cast<int64_t>(sizeof(T));
}

}  // namespace

Status gemm_f32(const GemmArgs& args, Range range, const Ctx& ctx) { return run<float>(args, range, ctx); }
Status gemm_f64(const GemmArgs& args, Range range, const Ctx& ctx) { return run<double>(args, range, ctx); }

int64_t gemm_f32_scratch(const GemmArgs& args) { return scratch_bytes<float>(args); }
int64_t gemm_f64_scratch(const GemmArgs& args) { return scratch_bytes<double>(args); }

}  // namespace quernel::QUERNEL_ISA
