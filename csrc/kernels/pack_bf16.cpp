// Operands of gemm_bf16: rounded to bfloat16, K padded with zeros, as rows of A or as columns of B.
//
// Rows whose k are contiguous are converted as they lie. Else the work is done in blocks of 16 rows (of A; columns of
// B) x 32 k, which are 16 x 16 pairs of k: a block is read along whichever direction is contiguous in the source, and
// its pairs are transposed if the destination wants the other one.
#include "kernels/args/bf16.h"
#include "kernels/simd/bf16.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kPairs = static_cast<int>(kBf16Block / 2);
static_assert(kPairs == kBf16Group);

// [row][k], or [pair of k][row][2] where rows are contiguous in the source.
struct alignas(64) Block {
  uint16_t v[kBf16Group][kBf16Block];
  int32_t* pairs(int line) { return reinterpret_cast<int32_t*>(v[line]); }  // for whole registers only
};

inline uint16_t as_bf16(float x) { return to_bf16(x); }
inline uint16_t as_bf16(uint16_t x) { return x; }

inline void convert(const float* x, uint16_t* y, int64_t n) { narrow(x, y, n); }
inline void convert(const uint16_t* x, uint16_t* y, int64_t n) { __builtin_memcpy(y, x, static_cast<size_t>(n) * 2); }

// One k of each of the 16 rows, and the next.
inline void interleave(const float* x, const float* next, Block& block, int line) {
  for (int i = 0; i < kBf16Group; i += VecI32::kWidth)
    round_pairs(VecF32::load(x + i), VecF32::load(next + i)).store(block.pairs(line) + i);
}
inline void interleave(const uint16_t* x, const uint16_t* next, Block& block, int line) {
  interleave(x, next, block.v[line], kPairs);
}

// At the edges: zeros, then element by element.
template <class T>
void read_part(const Bf16PackArgs& p, const T* src, int rows, int depth, Block& block) {
  __builtin_memset(block.v, 0, sizeof(block.v));
  for (int i = 0; i < rows; ++i) {
    for (int k = 0; k < depth; ++k) {
      const uint16_t x = as_bf16(src[i * p.src_row + k * p.src_k]);
      (p.src_k == 1 ? block.v[i][k] : block.v[k / 2][2 * i + k % 2]) = x;
    }
  }
}

template <class T>
void read_whole(const Bf16PackArgs& p, const T* src, Block& block) {
  if (p.src_k == 1) {
    for (int i = 0; i < kBf16Group; ++i) convert(src + i * p.src_row, block.v[i], kBf16Block);
  } else {
    for (int line = 0; line < kPairs; ++line, src += 2 * p.src_k) interleave(src, src + p.src_k, block, line);
  }
}

// In squares of registers: pairs travel as floats, which moves their bits and nothing more.
void transpose_pairs(Block& from, Block& to) {
  constexpr int kWidth = VecF32::kWidth;
  for (int i = 0; i < kBf16Group; i += kWidth) {
    for (int j = 0; j < kPairs; j += kWidth) {
      VecF32 square[kWidth];
      for (int r = 0; r < kWidth; ++r) square[r] = from_bits(VecI32::load(from.pairs(i + r) + j));
      transpose(square);
      for (int r = 0; r < kWidth; ++r) bits(square[r]).store(to.pairs(j + r) + i);
    }
  }
}

template <class T>
void pack_rows(const Bf16PackArgs& p, int64_t row, int rows, int64_t padded, uint16_t* dst) {
  for (int64_t i = row; i < row + rows; ++i, dst += padded) {
    convert(static_cast<const T*>(p.src) + i * p.src_row, dst, p.k);
    __builtin_memset(dst + p.k, 0, static_cast<size_t>(padded - p.k) * 2);
  }
}

template <class T>
void pack_blocks(const Bf16PackArgs& p, int64_t row, int rows, int64_t padded, uint16_t* dst) {
  const bool turn = p.as_columns == (p.src_k == 1);
  for (int64_t k = 0; k < padded; k += kBf16Block) {
    const T* src = static_cast<const T*>(p.src) + row * p.src_row + k * p.src_k;
    const int depth = static_cast<int>(p.k - k < kBf16Block ? p.k - k : kBf16Block);
    Block read, turned;
    rows == kBf16Group&& depth == kBf16Block ? read_whole(p, src, read) : read_part(p, src, rows, depth, read);
    if (turn) transpose_pairs(read, turned);
    const Block& block = turn ? turned : read;
    if (p.as_columns) {
      __builtin_memcpy(dst + k * kBf16Group, block.v, sizeof(block.v));
    } else {
      for (int i = 0; i < rows; ++i) __builtin_memcpy(dst + i * padded + k, block.v[i], sizeof(block.v[i]));
    }
  }
}

template <class T>
void pack(const Bf16PackArgs& p, Range range) {
  const int64_t padded = (p.k + kBf16Block - 1) / kBf16Block * kBf16Block;
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t row = item * kBf16Group;
    const int rows = static_cast<int>(p.rows - row < kBf16Group ? p.rows - row : kBf16Group);
    uint16_t* dst = static_cast<uint16_t*>(p.dst) + row * padded;
    p.src_k == 1 && !p.as_columns ? pack_rows<T>(p, row, rows, padded, dst) : pack_blocks<T>(p, row, rows, padded, dst);
  }
}

}  // namespace

Status pack_bf16(const Bf16PackArgs& p, Range range, const Ctx&) {
  if (p.dtype == DType::kFloat32)
    pack<float>(p, range);
  else
    pack<uint16_t>(p, range);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
