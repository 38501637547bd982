// A product of bfloat16 matrices by every primitive of core/mma.h: C (m, n) = A (m, k) B (k, n), rows of A and B
// contiguous, k and n multiples of 16. A block of two warps computes 32 x 16 results, a warp 16 x 16; slices of 16
// along k are copied into one of two places while the other is multiplied. A Plant is a bug that a test must notice.
#pragma once
#include "core/mma.h"

namespace quernel::cuda {

enum class Plant { kNone, kNoWait, kNoBarrier, kCopyBeforeBarrier };

struct Product {
  const uint16_t *a, *b;
  float* c;
  int m, n, k;
};

template <Plant kPlant>
__global__ void __launch_bounds__(64) multiply_pipelined(Product p) {
  alignas(16) __shared__ uint16_t a_slices[2][32][16];
  alignas(16) __shared__ uint16_t b_slices[2][16][16];
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp, warp = t / kWarp;
  const int first_row = static_cast<int>(blockIdx.y) * 32, first_column = static_cast<int>(blockIdx.x) * 16;
  AsyncCopies copies;
  const auto fetch = [&](int k) {
    const int place = k / 16 % 2, row = t / 2, part = t % 2 * 8;
    if (k < p.k) {
      const bool valid = first_row + row < p.m;
      copies.copy<16>(&a_slices[place][row][part], p.a + int64_t{valid ? first_row + row : 0} * p.k + k + part, valid);
      if (t < 32) copies.copy<16>(&b_slices[place][row][part], p.b + int64_t{k + row} * p.n + first_column + part);
    }
    copies.close_group();
  };

  float sums[2][4] = {};
  fetch(0);
  for (int k = 0; k < p.k; k += 16) {
    if (kPlant != Plant::kNoWait) copies.wait<0>();
    if (kPlant == Plant::kCopyBeforeBarrier) fetch(k + 16);
    if (kPlant != Plant::kNoBarrier) __syncthreads();
    if (kPlant != Plant::kCopyBeforeBarrier) fetch(k + 16);
    const int place = k / 16 % 2;
    unsigned a[4], b[4];
    load_tiles(a, &a_slices[place][warp * 16 + lane % 16][lane / 16 * 8]);
    load_tiles_turned(b, &b_slices[place][lane % 16][lane / 16 * 8]);
    for (int j = 0; j < 2; ++j) multiply_bf16(sums[j], a, {b[2 * j], b[2 * j + 1]});
  }
  copies.wait_all();
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + warp * 16 + lane / 4 + i / 2 * 8;
      const int column = first_column + j * 8 + lane % 4 * 2 + i % 2;
      if (row < p.m) p.c[int64_t{row} * p.n + column] = sums[j][i];
    }
  }
}

}  // namespace quernel::cuda
