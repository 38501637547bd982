// Every primitive against plain loops: nothing but sound kernels. Prints what is wrong; exits with 0 if nothing is.
// test_emulation.py runs it under emulation; on a machine with a GPU (sm_80 or later; for sm_90 say
// -gencode=arch=compute_90a,code=sm_90a in place of -arch):
//   nvcc -std=c++20 -arch=native --expt-relaxed-constexpr -Icuda -Icsrc tests/cuda/sound.cu cuda/core/device.cu
#include "core/types.h"
#include "device_array.h"
#include "pipeline.h"
#include "warpgroups.h"

namespace quernel::cuda {
namespace {

constexpr int kBlock = 96;  // three warps: a block's last group of 64 is not full
int failures = 0;

void check(bool right, const char* what) {
  if (right) return;
  std::printf("wrong: %s\n", what);
  ++failures;
}

void finish(const char* what) {
  require(device_synchronize());
  const char* error = device_launch_error();
  if (error) std::printf("%s: %s\n", what, error);
  failures += error != nullptr;
}

// A warp's whole product, one warp after the other: A (rows, k) and B (columns, k) of bytes, each lane's in its order.
__global__ void products_of_bytes(const uint8_t* a, const int8_t* b, int* c, int* dots) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const unsigned* left = reinterpret_cast<const unsigned*>(a) + warp * 16 * 8;
  const unsigned* right = reinterpret_cast<const unsigned*>(b) + warp * 8 * 8;
  const int g = lane / 4, i = lane % 4;
  const unsigned a_lane[4] = {left[g * 8 + i], left[(g + 8) * 8 + i], left[g * 8 + i + 4], left[(g + 8) * 8 + i + 4]};
  const unsigned b_lane[2] = {right[g * 8 + i], right[g * 8 + i + 4]};
  int sums[4] = {1, 2, 3, 4};
  multiply_u8s8(sums, a_lane, b_lane);
  for (int j = 0; j < 4; ++j) c[warp * 128 + (g + j / 2 * 8) * 8 + i * 2 + j % 2] = sums[j] - (j + 1);
  dots[threadIdx.x] = dot_u8s8(a_lane[1], b_lane[1], 7);
}

void test_bytes() {
  constexpr int kWarps = kBlock / kWarp;
  std::vector<uint8_t> a;
  std::vector<int8_t> b;
  for (int v : small_integers(kWarps * 16 * 32, 127, 1)) a.push_back(static_cast<uint8_t>(v + 128));
  for (int v : small_integers(kWarps * 8 * 32, 127, 2)) b.push_back(static_cast<int8_t>(v));
  const DeviceArray<uint8_t> da(a);
  const DeviceArray<int8_t> db(b);
  const DeviceArray<int> dc(std::vector<int>(kWarps * 128, 0)), dots(std::vector<int>(kBlock, 0));
  launch(context(), products_of_bytes, 1, kBlock, 0, da.data, db.data, dc.data, dots.data);
  finish("bytes");
  const std::vector<int> c = dc.host(), dot = dots.host();
  for (int w = 0; w < kWarps; ++w) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int sum = 0;
        for (int k = 0; k < 32; ++k) sum += a[(w * 16 + row) * 32 + k] * b[(w * 8 + column) * 32 + k];
        check(c[w * 128 + row * 8 + column] == sum, "multiply_u8s8");
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      int sum = 7;
      for (int k = 0; k < 4; ++k)
        sum += a[(w * 16 + lane / 4 + 8) * 32 + lane % 4 * 4 + k] * b[(w * 8 + lane / 4) * 32 + 16 + lane % 4 * 4 + k];
      check(dot[w * kWarp + lane] == sum, "dot_u8s8");
    }
  }
}

// The same of floats, A (16, 8 words) and B (8, 8 words) of one warp, as tf32 and as pairs of bfloat16 in two ways.
__global__ void products_of_floats(const unsigned* a, const unsigned* b, float* tf32, float* bf16, float* shuffled) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, i = lane % 4;
  unsigned a_lane[4] = {a[g * 8 + i], a[(g + 8) * 8 + i], a[g * 8 + i + 4], a[(g + 8) * 8 + i + 4]};
  unsigned b_lane[2] = {b[g * 8 + i], b[g * 8 + i + 4]};
  float pairs[4] = {}, slow[4] = {}, sums[4] = {};
  multiply_bf16(pairs, a_lane, b_lane);
  multiply_bf16_by_shuffles(slow, a_lane, b_lane);
  for (unsigned& x : a_lane) x = to_tf32(x);
  for (unsigned& x : b_lane) x = to_tf32(x);
  multiply_tf32(sums, a_lane, b_lane);
  for (int j = 0; j < 4; ++j) {
    const int at = (g + j / 2 * 8) * 8 + i * 2 + j % 2;
    tf32[at] = sums[j];
    bf16[at] = pairs[j];
    shuffled[at] = slow[j];
  }
}

struct Round {
  const unsigned* x;
  unsigned* y;
  __device__ void operator()(int64_t i) const { y[i] = to_tf32(x[i]); }
};

// Up and down, and ties away from zero.
void test_rounding() {
  const std::vector<unsigned> x{0x3f800fff, 0x3f801000, 0x3f801800, 0xbf801000, 0x3f803000, 0x7f800000, 0};
  const std::vector<unsigned> want{0x3f800000, 0x3f802000, 0x3f802000, 0xbf802000, 0x3f804000, 0x7f800000, 0};
  const DeviceArray<unsigned> from(x), to(std::vector<unsigned>(x.size(), 1));
  for_each(context(), static_cast<int64_t>(x.size()), Round{from.data, to.data});
  finish("rounding");
  check(to.host() == want, "to_tf32");
}

void test_floats() {
  // Whole numbers with a little more, which tf32 does not hold; or with another one as the lower bfloat16.
  const auto words = [](size_t n, unsigned seed, bool pairs) {
    const std::vector<int> upper = small_integers(n, 99, seed), lower = small_integers(n, 9, seed + 9);
    std::vector<unsigned> made;
    for (size_t i = 0; i < n; ++i)
      made.push_back(unsigned{bf16_of(upper[i])} << 16 | (pairs ? bf16_of(lower[i]) : upper[i] == 0 ? 0 : 0x0700));
    return made;
  };
  for (const bool pairs : {false, true}) {
    const std::vector<unsigned> a = words(16 * 8, 6, pairs), b = words(8 * 8, 7, pairs);
    const DeviceArray<unsigned> da(a), db(b);
    const DeviceArray<float> tf32(std::vector<float>(128)), bf16(std::vector<float>(128)),
        slow(std::vector<float>(128));
    launch(context(), products_of_floats, 1, kWarp, 0, da.data, db.data, tf32.data, bf16.data, slow.data);
    finish("floats");
    const std::vector<float> t = tf32.host(), p = bf16.host(), s = slow.host();
    for (int at = 0; at < 128; ++at) {
      float upper = 0, lower = 0;
      for (int k = 0; k < 8; ++k) {
        const unsigned left = a[at / 8 * 8 + k], right = b[at % 8 * 8 + k];
        upper += from_bf16(left >> 16) * from_bf16(right >> 16);
        lower += from_bf16(left & 0xffff) * from_bf16(right & 0xffff);
      }
      if (!pairs) check(t[at] == upper, "multiply_tf32");
      if (pairs) check(p[at] == upper + lower && s[at] == upper + lower, "multiply_bf16");
    }
  }
}

// A of one warp, B and sums as above, of float16.
__global__ void products_of_halves(const unsigned* a, const unsigned* b, float* c) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, i = lane % 4;
  const unsigned a_lane[4] = {a[g * 8 + i], a[(g + 8) * 8 + i], a[g * 8 + i + 4], a[(g + 8) * 8 + i + 4]};
  const unsigned b_lane[2] = {b[g * 8 + i], b[g * 8 + i + 4]};
  float sums[4] = {1, 2, 3, 4};
  multiply_f16(sums, a_lane, b_lane);
  for (int j = 0; j < 4; ++j) c[(g + j / 2 * 8) * 8 + i * 2 + j % 2] = sums[j] - static_cast<float>(j + 1);
}

void test_halves() {
  const std::vector<int> a = small_integers(16 * 16, 2000, 14), b = small_integers(8 * 16, 99, 15);
  const auto words = [](const std::vector<int>& values) {
    std::vector<unsigned> made;
    for (size_t i = 0; i < values.size(); i += 2)
      made.push_back(to_f16(static_cast<float>(values[i])) | unsigned{to_f16(static_cast<float>(values[i + 1]))} << 16);
    return made;
  };
  const DeviceArray<unsigned> da(words(a)), db(words(b));
  const DeviceArray<float> dc(std::vector<float>(128));
  launch(context(), products_of_halves, 1, kWarp, 0, da.data, db.data, dc.data);
  finish("halves");
  const std::vector<float> c = dc.host();
  for (int at = 0; at < 128; ++at) {
    int sum = 0;
    for (int k = 0; k < 16; ++k) sum += a[at / 8 * 16 + k] * b[at % 8 * 16 + k];
    check(c[at] == static_cast<float>(sum), "multiply_f16");
  }
}

void test_pipeline(int m, int n, int k) {
  const std::vector<int> a = small_integers(size_t(m) * k, 8, 3), b = small_integers(size_t(k) * n, 8, 4);
  std::vector<uint16_t> a16, b16;
  for (int v : a) a16.push_back(bf16_of(v));
  for (int v : b) b16.push_back(bf16_of(v));
  const DeviceArray<uint16_t> da(a16), db(b16);
  const DeviceArray<float> dc(std::vector<float>(size_t(m) * n, -1.f));
  launch(context(), multiply_pipelined<Plant::kNone>, dim3(n / 16, (m + 31) / 32), 64, 0,
         Product{da.data, db.data, dc.data, m, n, k});
  finish("pipeline");
  const std::vector<float> c = dc.host();
  for (int row = 0; row < m; ++row) {
    for (int column = 0; column < n; ++column) {
      int sum = 0;
      for (int i = 0; i < k; ++i) sum += a[size_t(row) * k + i] * b[size_t(i) * n + column];
      check(c[size_t(row) * n + column] == static_cast<float>(sum), "pipeline of bf16");
    }
  }
}

// Rows, and words along k, that fill no tile; slices that come back to a place.
void test_warpgroups() {
  if (!device_has_warpgroups()) return;
  check(is_right_in_ring<Slip::kNone, 64, RingBf16>(64, 160), "products of bf16 by a warpgroup, 64 columns");
  check(is_right_in_ring<Slip::kNone, 256, RingBf16>(51, 140), "products of bf16 by a warpgroup, 256 columns");
  check(is_right_in_ring<Slip::kNone, 128, RingBf16>(64, 72), "products of bf16 by a warpgroup, 128 columns");
  check(is_right_in_ring<Slip::kNone, 64, RingF16>(51, 140), "products of f16 by a warpgroup, 64 columns");
  check(is_right_in_ring<Slip::kNone, 256, RingF16>(64, 160), "products of f16 by a warpgroup, 256 columns");
  check(is_right_in_ring<Slip::kNone, 64, RingBytes>(51, 140), "products of bytes by a warpgroup, 64 columns");
  check(is_right_in_ring<Slip::kNone, 256, RingBytes>(64, 96), "products of bytes by a warpgroup, 256 columns");
  check(is_right_in_ring<Slip::kNone, 128, RingF16>(60, 132), "products of f16 by a warpgroup, 128 columns");
  check(is_right_in_ring<Slip::kNone, 128, RingBytes>(60, 132), "products of bytes by a warpgroup, 128 columns");
  check(reads_shared_tiles<Share::kNone>(), "tiles that two blocks copy for each other");
  check(reads_pixels({{2, 64, {5, -1, 5, 1}, {7, -1, 7, 1}}, 3, 3, 1, 1}), "tiles of pixels");
  check(reads_pixels({{3, 32, {9, -2, 4, 3}, {8, 1, 3, 2}}, 2, 2, 2, 3}), "tiles of some pixels");
  finish("warpgroups");
}

// Reductions over warps and blocks, shuffles, votes.
__global__ void reductions(const int* x, int* sums, int* highest, int* shuffled, unsigned* votes) {
  __shared__ int partial[kBlock / kWarp];
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp;
  const int value = x[blockIdx.x * kBlock + t];
  sums[blockIdx.x * kBlock + t] = block_reduce<kBlock>(value, partial, Plus{});
  highest[blockIdx.x * kBlock + t] = block_reduce<kBlock>(value, partial, [](int a, int b) { return a > b ? a : b; });
  int from = __shfl_sync(kAllLanes, value, lane + 3, 8);
  from = from * 31 + __shfl_up_sync(kAllLanes, value, 5);
  from = from * 31 + __shfl_down_sync(kAllLanes, value, 3, 16);
  shuffled[blockIdx.x * kBlock + t] = from * 31 + __shfl_xor_sync(kAllLanes, value, 9);
  votes[blockIdx.x * kBlock + t] = __ballot_sync(kAllLanes, value > 0);
}

void test_reductions() {
  constexpr int kBlocks = 2, kSize = kBlocks * kBlock;
  const std::vector<int> x = small_integers(kSize, 99, 5);
  const DeviceArray<int> dx(x), sums(x), highest(x), shuffled(x);
  const DeviceArray<unsigned> votes(std::vector<unsigned>(kSize, 0));
  launch(context(), reductions, kBlocks, kBlock, 0, dx.data, sums.data, highest.data, shuffled.data, votes.data);
  finish("reductions");
  const std::vector<int> s = sums.host(), h = highest.host(), f = shuffled.host();
  const std::vector<unsigned> v = votes.host();
  for (int t = 0; t < kSize; ++t) {
    const int block = t / kBlock * kBlock, warp = t / kWarp * kWarp, lane = t % kWarp;
    int sum = 0, most = -100;
    for (int i = block; i < block + kBlock; ++i) sum += x[i], most = x[i] > most ? x[i] : most;
    unsigned vote = 0;
    for (int i = 0; i < kWarp; ++i) vote |= unsigned{x[warp + i] > 0} << i;
    int from = x[warp + lane / 8 * 8 + (lane + 3) % 8];
    from = from * 31 + (lane >= 5 ? x[t - 5] : x[t]);
    from = from * 31 + (lane % 16 + 3 < 16 ? x[t + 3] : x[t]);
    check(s[t] == sum && h[t] == most, "block_reduce");
    check(f[t] == from * 31 + x[warp + (lane ^ 9)], "shuffles");
    check(v[t] == vote, "ballot");
  }
}

struct Note {
  int64_t* counts;
  __device__ void operator()(int64_t i) const { counts[i] += i; }
};

void test_for_each() {
  constexpr int64_t kSize = 70001;
  const DeviceArray<int64_t> counts(std::vector<int64_t>(kSize, 1));
  for_each(context(), kSize, Note{counts.data});
  finish("for_each");
  const std::vector<int64_t> c = counts.host();
  for (int64_t i = 0; i < kSize; ++i) check(c[i] == i + 1, "for_each");
}

}  // namespace
}  // namespace quernel::cuda

int main() {
  using namespace quernel::cuda;
  require(device_open());
  test_for_each();
  test_reductions();
  test_bytes();
  test_rounding();
  test_floats();
  test_halves();
  test_pipeline(27, 48, 112);
  test_pipeline(64, 16, 16);
  test_warpgroups();
  return failures != 0;
}
