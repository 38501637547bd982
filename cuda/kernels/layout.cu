// Copies between strided views. A thread an element, in the order of the destination; where the source is contiguous in
// another dimension (`tiled`), squares go through shared memory, so that both sides are read and written by whole rows
// of a warp. A square's rows in shared memory are one element longer than it is wide: columns then lie in other banks.
#include "core/launch.h"
#include "core/strided.h"
#include "kernels/args/layout.h"

namespace quernel::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kRows = 8;  // of a square at a time

template <class T>
struct CopyElement {
  StridedCopyArgs a;

  __device__ void operator()(int64_t i) const {
    const T* src = static_cast<const T*>(a.src) + a.src_offset;
    T* dst = static_cast<T*>(a.dst) + a.dst_offset;
    int64_t from = 0, to = 0;
    for (int d = a.shape.rank - 1; d >= 0; --d) {
      const int64_t at = i % a.shape.dims[d];
      i /= a.shape.dims[d];
      from += at * a.src_strides[d];
      to += at * a.dst_strides[d];
    }
    dst[to] = src[from];
  }
};

// dst is contiguous in the last dimension x, src in the one before, y. A block takes one square.
template <class T>
__global__ void copy_tile(StridedCopyArgs a) {
  __shared__ T tile[kTile][kTile + 1];
  const int x = a.shape.rank - 1, y = x - 1;
  const int64_t width = a.shape.dims[x], height = a.shape.dims[y];
  const int64_t across = ceil_div(width, kTile), down = ceil_div(height, kTile);
  int64_t block = blockIdx.x;
  const int64_t i = block % across * kTile, j = block / across % down * kTile;
  block /= across * down;
  int64_t from = a.src_offset, to = a.dst_offset;
  for (int d = y - 1; d >= 0; --d) {
    from += block % a.shape.dims[d] * a.src_strides[d];
    to += block % a.shape.dims[d] * a.dst_strides[d];
    block /= a.shape.dims[d];
  }
  const T* src = static_cast<const T*>(a.src) + from;
  T* dst = static_cast<T*>(a.dst) + to;
  const int lane = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  for (int r = row; r < kTile; r += kRows) {
    if (i + r < width && j + lane < height) tile[r][lane] = src[(i + r) * a.src_strides[x] + (j + lane)];
  }
  __syncthreads();
  for (int r = row; r < kTile; r += kRows) {
    if (j + r < height && i + lane < width) dst[(j + r) * a.dst_strides[y] + (i + lane)] = tile[lane][r];
  }
}

template <class T>
void copy(const StridedCopyArgs& a, const Ctx& ctx) {
  if (!a.tiled) return for_each(ctx, a.shape.size, CopyElement<T>{a});
  const int64_t inner = a.shape.dims[a.shape.rank - 1], rows = a.shape.dims[a.shape.rank - 2];
  if (a.shape.size == 0) return;
  const int64_t blocks = a.shape.size / (inner * rows) * ceil_div(inner, kTile) * ceil_div(rows, kTile);
  launch(ctx, copy_tile<T>, static_cast<unsigned>(blocks), dim3(kTile, kRows), 0, a);
}

}  // namespace

Status strided_copy(const StridedCopyArgs& a, Range, const Ctx& ctx) {
  switch (a.itemsize) {
    case 1:
      copy<uint8_t>(a, ctx);
      break;
    case 2:
      copy<uint16_t>(a, ctx);
      break;
    case 4:
      copy<uint32_t>(a, ctx);
      break;
    default:
      copy<uint64_t>(a, ctx);
  }
  return {};
}

}  // namespace quernel::cuda
