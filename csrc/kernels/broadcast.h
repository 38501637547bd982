// Broadcast operands as contiguous chunks, so that an elementwise operation needs one loop and not one per pattern of
// strides. What is not contiguous is repeated in a small buffer: once for scalars and for short rows that repeat, like
// a bias, else row by row. It costs a load from L1 per element. What runs once a chunk is not inlined: a kernel has
// several sources for each of six element types, and would be more than twice as long.
#pragma once
#include <cstring>

#include "kernels/args/common.h"
#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kChunk = 1024;

// How the output is cut: short rows into chunks of whole rows, so that a repeating row keeps its place in the buffer;
// long rows into chunks that do not cross a row's end, so that an operand's part of one is contiguous.
struct Chunks {
  explicit Chunks(const StridedShape& shape) : inner(shape.rank > 0 ? shape.dims[shape.rank - 1] : 1) {
    if (inner < 1) inner = 1;
    short_rows = inner <= kChunk;
    size = short_rows ? kChunk / inner * inner : kChunk;
  }
  // Elements of the chunk that starts at i, in a range that ends at `end`.
  int64_t length(int64_t i, int64_t end) const {
    int64_t n = short_rows ? size - i % size : inner - i % inner;
    if (n > kChunk) n = kChunk;
    return n < end - i ? n : end - i;
  }

  int64_t inner, size;
  bool short_rows;
};

template <class T>
class Source {
 public:
  [[gnu::noinline]] Source(const void* data, double scalar, const StridedShape& shape, const Chunks& chunks,
                           const int64_t* strides)
      : data_(static_cast<const T*>(data)), shape_(shape), chunks_(chunks), strides_(strides) {
    const int last = shape.rank - 1;
    if (!data) {
      constant(convert<T>(scalar));
      return;
    }
    bool dense = true, repeats = true;
    int64_t expected = 1;
    for (int d = last; d >= 0; --d) {
      dense &= strides[d] == expected;
      repeats &= d == last || strides[d] == 0;
      expected *= shape.dims[d];
    }
    kind_ = dense ? kDense : chunks.short_rows ? kGathered : kRow;
    if (dense || !repeats) return;
    if (strides[last] == 0) {
      constant(data_[0]);
    } else if (chunks.short_rows) {
      kind_ = kPeriodic;
      gather(0, chunks.size < shape.size ? chunks.size : shape.size);
    }
  }

  // Elements [begin, begin + n) of the broadcast operand, within one chunk.
  const T* at(int64_t begin, int64_t n) {
    switch (kind_) {
      case kDense:
        return data_ + begin;
      case kConstant:
        return buffer_;
      case kPeriodic:
        return buffer_ + begin % chunks_.size;
      case kRow:
        return in_row(begin);
      default:
        gather(begin, n);
        return buffer_;
    }
  }

 private:
  enum Kind { kDense, kConstant, kPeriodic, kRow, kGathered };

  void constant(T value) {
    kind_ = kConstant;
    const int64_t n = shape_.size < kChunk ? shape_.size : kChunk;
    for (int64_t i = 0; i < n; ++i) buffer_[i] = value;
  }

  [[gnu::noinline]] const T* in_row(int64_t begin) {
    int64_t row = begin / chunks_.inner;
    const int64_t column = begin - row * chunks_.inner;
    const T* from = data_;
    for (int d = shape_.rank - 2; d >= 0; --d) {
      from += row % shape_.dims[d] * strides_[d];
      row /= shape_.dims[d];
    }
    if (strides_[shape_.rank - 1] == 1) return from + column;
    if (from != filled_) {
      for (T& value : buffer_) value = *from;
      filled_ = from;
    }
    return buffer_;
  }

  [[gnu::noinline]] void gather(int64_t begin, int64_t n) {
    const int last = shape_.rank - 1;
    const int64_t inner = shape_.dims[last], step = strides_[last];
    int64_t index[kArgsRank] = {}, row = begin / inner, column = begin % inner;
    const T* from = data_;
    for (int d = last - 1; d >= 0; --d) {
      index[d] = row % shape_.dims[d];
      row /= shape_.dims[d];
      from += index[d] * strides_[d];
    }
    for (T *out = buffer_, *end = buffer_ + n; out < end; column = 0) {
      const int64_t run = inner - column < end - out ? inner - column : end - out;
      if (step == 0) {
        for (int64_t i = 0; i < run; ++i) out[i] = *from;
      } else {
        std::memcpy(out, from + column, static_cast<size_t>(run) * sizeof(T));
      }
      out += run;
      for (int d = last - 1; d >= 0; --d) {
        from += strides_[d];
        if (++index[d] < shape_.dims[d]) break;
        from -= shape_.dims[d] * strides_[d];
        index[d] = 0;
      }
    }
  }

  const T* data_;
  const StridedShape& shape_;
  const Chunks& chunks_;
  const int64_t* strides_;
  const T* filled_ = nullptr;  // what the buffer repeats
  Kind kind_ = kDense;
  T buffer_[kChunk];
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
