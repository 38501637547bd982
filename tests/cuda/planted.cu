// Kernels with bugs, each of which the emulation must notice under some schedule. Prints a line per bug: its name, then
// "right", which hides the bug, "wrong", or the error that the emulation reports.
#include "device_array.h"
#include "pipeline.h"
#include "warpgroups.h"

namespace quernel::cuda {
namespace {

constexpr int kBlock = 128;

void report(const char* name, bool right) {
  const char* error = device_launch_error();
  std::printf("%s: %s\n", name, error ? error : right ? "right" : "wrong");
}

// y = x turned round, `rounds` times, through shared memory.
enum class Turn { kNoBarrierAfterWrite, kNoBarrierAfterRead, kNoWarpBarrier };

template <Turn kPlant>
__global__ void turn(const int* x, int* y, int rounds) {
  __shared__ int values[kBlock];
  const int t = static_cast<int>(threadIdx.x);
  int value = x[t];
  for (int i = 0; i < rounds; ++i) {
    values[t] = value;
    if (kPlant == Turn::kNoBarrierAfterRead) __syncthreads();
    value = values[kPlant == Turn::kNoWarpBarrier ? t ^ 1 : kBlock - 1 - t];
    if (kPlant == Turn::kNoBarrierAfterWrite) __syncthreads();
    if (kPlant == Turn::kNoWarpBarrier) __syncwarp();
  }
  y[t] = value;
}

template <Turn kPlant>
void run_turn(const char* name) {
  const std::vector<int> x = small_integers(kBlock, 1000, 6);
  const DeviceArray<int> dx(x), dy(x);
  launch(context(), turn<kPlant>, 1, kBlock, 0, dx.data, dy.data, 3);
  const std::vector<int> y = dy.host();
  bool right = true;
  for (int t = 0; t < kBlock; ++t) right &= y[t] == x[kPlant == Turn::kNoWarpBarrier ? t ^ 1 : kBlock - 1 - t];
  report(name, right);
}

template <Plant kPlant>
void run_pipeline(const char* name) {
  constexpr int m = 32, n = 16, k = 96;
  const std::vector<int> a = small_integers(m * k, 8, 7), b = small_integers(k * n, 8, 8);
  std::vector<uint16_t> a16, b16;
  for (int v : a) a16.push_back(bf16_of(v));
  for (int v : b) b16.push_back(bf16_of(v));
  const DeviceArray<uint16_t> da(a16), db(b16);
  const DeviceArray<float> dc(std::vector<float>(m * n, 0.f));
  launch(context(), multiply_pipelined<kPlant>, 1, 64, 0, Product{da.data, db.data, dc.data, m, n, k});
  const std::vector<float> c = dc.host();
  bool right = true;
  for (int i = 0; i < m * n; ++i) {
    int sum = 0;
    for (int j = 0; j < k; ++j) sum += a[i / n * k + j] * b[j * n + i % n];
    right &= c[i] == static_cast<float>(sum);
  }
  report(name, right);
}

template <Slip kSlip>
void run_ring(const char* name) {
  report(name, is_right_in_ring<kSlip, 64, RingBf16>(64, 5 * kTileWords));
}

// A phase that never ends, as a thread too few arrives.
__global__ void never_full(int* y) {
  __shared__ Barrier barrier;
  if (threadIdx.x == 0) barrier.init(2);
  __syncthreads();
  if (threadIdx.x == 0) barrier.arrive();
  barrier.wait(0);
  y[threadIdx.x] = 1;
}

// Half a warp waits for the block, the other half for the warp.
__global__ void barriers_apart(int* y) {
  if (threadIdx.x % kWarp < 16)
    __syncthreads();
  else
    __syncwarp();
  y[threadIdx.x] = 1;
}

// Two barriers, each for half of a block: nobody waits in vain, but nobody has met either.
__global__ void two_barriers(int* y) {
  if (threadIdx.x < kBlock / 2)
    __syncthreads();
  else
    __syncthreads();
  y[threadIdx.x] = 1;
}

// What lies in shared memory at the beginning; twice, so that the second finds what the first leaves.
__global__ void unwritten(float* y) {
  __shared__ float values[kBlock];
  y[threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = 0.f;
}

__global__ void never_waited(int* y, const int* x) {
  alignas(16) __shared__ int values[kBlock];
  AsyncCopies copies;
  copies.copy<4>(&values[threadIdx.x], x + threadIdx.x);
  copies.close_group();
  y[threadIdx.x] = 1;
}

__global__ void misaligned(int* y, const int* x) {
  alignas(16) __shared__ int values[kBlock + 1];
  AsyncCopies copies;
  copies.copy<8>(&values[threadIdx.x], x + threadIdx.x);
  copies.wait_all();
  y[threadIdx.x] = 1;
}

// Runs after a deadlock, whose fibers are stuck: they must not come back.
__global__ void count(int* y) {
  __syncthreads();
  y[threadIdx.x] += 1;
}

}  // namespace
}  // namespace quernel::cuda

int main() {
  using namespace quernel::cuda;
  run_turn<Turn::kNoBarrierAfterWrite>("no barrier after a write");
  run_turn<Turn::kNoBarrierAfterRead>("no barrier after a read");
  run_turn<Turn::kNoWarpBarrier>("no barrier of the warp");
  run_pipeline<Plant::kNoWait>("no wait for copies");
  run_pipeline<Plant::kNoBarrier>("no barrier around copies");
  run_pipeline<Plant::kCopyBeforeBarrier>("copies begun before the barrier");
  run_ring<Slip::kNoFull>("no wait for tiles");
  run_ring<Slip::kFullTooLate>("tiles waited for after the product");
  run_ring<Slip::kNoEmpty>("no wait for a place");
  run_ring<Slip::kEmptyTooEarly>("a place given away before its products are done");
  run_ring<Slip::kNoWait>("no wait for products");
  run_ring<Slip::kNoBegin>("products not begun");
  report("no wait for the other block", reads_shared_tiles<Share::kAlone>());

  const std::vector<int> x = small_integers(kBlock + 1, 9, 9);
  const DeviceArray<int> dx(x), dy(std::vector<int>(kBlock, 0));
  launch(context(), barriers_apart, 1, kBlock, 0, dy.data);
  report("barriers apart", true);
  launch(context(), never_full, 1, kBlock, 0, dy.data);
  report("a phase that never ends", true);
  launch(context(), two_barriers, 1, kBlock, 0, dy.data);
  report("two barriers", true);
  const DeviceArray<float> df(std::vector<float>(kBlock, 0.f));
  for (int i = 0; i < 2; ++i) launch(context(), unwritten, 1, kBlock, 0, df.data);
  report("unwritten shared memory", df.host()[kBlock - 1] == 0.f);
  launch(context(), count, 1, kBlock, 48 * 1024 + 1, dy.data);
  report("too much shared memory", true);
  launch(context(), never_waited, 1, kBlock, 0, dy.data, dx.data);
  report("copies never waited for", true);
  launch(context(), misaligned, 1, kBlock, 0, dy.data, dx.data);
  report("a copy not aligned", true);
  launch(context(), count, 1, 1025, 0, dy.data);
  report("too many threads", true);

  const DeviceArray<int> counts(std::vector<int>(kBlock, 0));
  launch(context(), count, 1, kBlock, 0, counts.data);
  report("sound after a deadlock", counts.host() == std::vector<int>(kBlock, 1));
  return 0;
}
