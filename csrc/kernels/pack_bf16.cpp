// Operands of gemm_bf16: rounded to bfloat16, K padded with zeros, as rows of A or as columns of B.
//
// Both are made of blocks of 16 rows (of A; columns of B) x 32 k, which are 16 x 16 pairs of k. A block is read along
// whichever direction is contiguous in the source, and its pairs are transposed if the destination wants the other one.
#include "kernels/args/bf16.h"
#include "kernels/simd/bf16.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kPairs = static_cast<int>(kBf16Block / 2);
static_assert(kPairs == kBf16Group);

// [row][pair], or [pair][row] where rows are contiguous in the source; two bfloat16 each, the even k below.
using Block = uint32_t[kBf16Group][kPairs];

inline uint16_t as_bf16(float x) { return to_bf16(x); }
inline uint16_t as_bf16(uint16_t x) { return x; }

template <class T>
void read_along_k(const T* src, int64_t src_row, int rows, int depth, Block& block) {
  for (int i = 0; i < rows; ++i, src += src_row) {
    uint16_t line[kBf16Block] = {};
    if (depth == kBf16Block) {
      for (int k = 0; k < kBf16Block; ++k) line[k] = as_bf16(src[k]);
    } else {
      for (int k = 0; k < depth; ++k) line[k] = as_bf16(src[k]);
    }
    __builtin_memcpy(block[i], line, sizeof(line));
  }
}

template <class T>
void read_along_rows(const T* src, int64_t src_k, int rows, int depth, Block& block) {
  for (int k = 0; k < depth; k += 2, src += 2 * src_k) {
    uint32_t* line = block[k / 2];
    if (rows == kBf16Group) {
      for (int i = 0; i < kBf16Group; ++i) line[i] = as_bf16(src[i]);
    } else {
      for (int i = 0; i < rows; ++i) line[i] = as_bf16(src[i]);
    }
    if (k + 1 == depth) break;
    const T* next = src + src_k;
    if (rows == kBf16Group) {
      for (int i = 0; i < kBf16Group; ++i) line[i] |= static_cast<uint32_t>(as_bf16(next[i])) << 16;
    } else {
      for (int i = 0; i < rows; ++i) line[i] |= static_cast<uint32_t>(as_bf16(next[i])) << 16;
    }
  }
}

// In squares of registers: pairs travel as floats, which moves their bits and nothing more.
void transpose_pairs(const Block& from, Block& to) {
  constexpr int kWidth = VecF32::kWidth;
  for (int i = 0; i < kBf16Group; i += kWidth) {
    for (int j = 0; j < kPairs; j += kWidth) {
      VecF32 square[kWidth];
      for (int r = 0; r < kWidth; ++r)
        square[r] = from_bits(VecI32::load(reinterpret_cast<const int32_t*>(&from[i + r][j])));
      transpose(square);
      for (int r = 0; r < kWidth; ++r) bits(square[r]).store(reinterpret_cast<int32_t*>(&to[j + r][i]));
    }
  }
}

template <class T>
void pack(const Bf16PackArgs& p, Range range) {
  const int64_t padded = (p.k + kBf16Block - 1) / kBf16Block * kBf16Block;
  const bool along_k = p.src_k == 1;
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t row = item * kBf16Group;
    const int rows = static_cast<int>(p.rows - row < kBf16Group ? p.rows - row : kBf16Group);
    uint16_t* dst = static_cast<uint16_t*>(p.dst) + row * padded;
    for (int64_t k = 0; k < padded; k += kBf16Block) {
      const T* src = static_cast<const T*>(p.src) + row * p.src_row + k * p.src_k;
      const int depth = static_cast<int>(p.k - k < kBf16Block ? p.k - k : kBf16Block);
      Block read = {}, turned;
      along_k ? read_along_k(src, p.src_row, rows, depth, read) : read_along_rows(src, p.src_k, rows, depth, read);
      const bool turn = along_k == p.as_columns;
      if (turn) transpose_pairs(read, turned);
      const Block& block = turn ? turned : read;
      if (p.as_columns) {
        __builtin_memcpy(dst + k * kBf16Group, block, sizeof(Block));
      } else {
        for (int i = 0; i < rows; ++i) __builtin_memcpy(dst + i * padded + k, block[i], sizeof(block[i]));
      }
    }
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
