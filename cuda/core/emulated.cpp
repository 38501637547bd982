// The fortified longjmp takes a jump to another stack for a mistake.
#undef _FORTIFY_SOURCE
#include "core/emulated.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/cluster.h"

// Fibers are begun by ucontext and switched by _setjmp and _longjmp, which make no system calls. They are kept: one
// runs a thread of a block to its end and waits to be given another. A deadlocked block leaves its fibers in the middle
// of something, so they are begun anew.

// Bounds of the section of all __shared__ arrays, by the linker; null if there are none.
extern "C" __attribute__((weak, visibility("hidden"))) std::byte __start_quernel_shared[], __stop_quernel_shared[];

namespace quernel::emulated {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kPage = 4096;
constexpr size_t kMostShared = 48 << 10;  // that a kernel gets without asking
constexpr size_t kAllShared = 227 << 10;
// Dynamic shared memory begins so far behind a multiple of kSharedAlign, as behind static arrays.
constexpr size_t kSharedAlign = 1024, kSharedBegin = 16;
constexpr int kWarp = 32;
constexpr int kMostThreads = 1024, kMostRanks = 8;

enum class State { kIdle, kReady, kAtBlock, kAtWarp, kWaiting };

struct Fiber {
  ucontext_t start;
  jmp_buf place;
  std::byte* stack = nullptr;
  bool begun = false;
  State state = State::kIdle;
  unsigned mask = 0;  // of the warp barrier it waits at
  const void* awaited = nullptr;
};

enum class Schedule { kForward, kReverse, kRandom, kGreedy, kGreedyReverse };

// A block of the cluster that runs; most kernels have clusters of one.
struct Block {
  dim3 index;
  int live = 0, at_barrier = 0;  // threads
  const char* file = nullptr;    // of the barrier that threads wait at
  int line = 0;
};

struct Engine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  jmp_buf scheduler;
  std::vector<Block> blocks;
  int current = 0, threads = 0, live = 0, at_cluster = 0;  // of all blocks
  int block_threads = 0;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  uint64_t slots[kMostThreads * kMostRanks] = {};
  std::vector<std::byte> shared;
  size_t block_shared = 0;                       // bytes of a block
  std::map<const void*, size_t> allowed_shared;  // of kernels that asked for more
  std::vector<std::function<void()>> copies;     // that have not landed
  unsigned seed = 1;
  bool apart = false;  // threads wait at different ones
  std::optional<Graph> captured;
  const char* error = nullptr;
  char text[256];
};
Engine engine;

Schedule schedule() {
  static const Schedule chosen = [] {
    const char* text = std::getenv("QUERNEL_CUDA_SCHEDULE");
    const std::string_view name = text ? text : "";
    if (name == "reverse") return Schedule::kReverse;
    if (name == "random") return Schedule::kRandom;
    if (name == "greedy") return Schedule::kGreedy;
    if (name == "greedy-reverse") return Schedule::kGreedyReverse;
    return Schedule::kForward;
  }();
  return chosen;
}

bool is_early(const char* variable) {
  const char* text = std::getenv(variable);
  return text && std::string_view(text) == "early";
}

bool backwards() { return schedule() == Schedule::kReverse || schedule() == Schedule::kGreedyReverse; }

dim3 index_of(int thread) {
  const auto t = static_cast<unsigned>(thread);
  return {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

int rank_of(int thread) { return thread / engine.block_threads; }
Block& block_of(int thread) { return engine.blocks[static_cast<size_t>(rank_of(thread))]; }

void release_block(int thread) {
  Block& block = block_of(thread);
  if (block.at_barrier < block.live || block.live == 0) return;
  for (int t = 0; t < engine.threads; ++t) {
    if (&block_of(t) == &block && engine.fibers[t]->state == State::kAtBlock) engine.fibers[t]->state = State::kReady;
  }
  block.at_barrier = 0;
}

// Lets a warp go on once all lanes of the mask that still run have come to the barrier.
void release_warp(int thread) {
  const int first = thread / kWarp * kWarp;
  const unsigned mask = engine.fibers[thread]->mask;
  const auto among = [&](int t) { return t < engine.threads && (mask >> (t - first) & 1); };
  for (int t = first; t < first + kWarp; ++t) {
    if (!among(t) || engine.fibers[t]->state == State::kIdle) continue;
    if (engine.fibers[t]->state != State::kAtWarp || engine.fibers[t]->mask != mask) return;
  }
  for (int t = first; t < first + kWarp; ++t) {
    if (among(t) && engine.fibers[t]->state == State::kAtWarp) engine.fibers[t]->state = State::kReady;
  }
}

void to_scheduler() {
  if (_setjmp(engine.fibers[engine.current]->place) == 0) _longjmp(engine.scheduler, 1);
}

void finish_thread(int thread) {
  engine.fibers[thread]->state = State::kIdle;
  --engine.live;
  --block_of(thread).live;
  release_block(thread);
  for (int t = thread / kWarp * kWarp; t < engine.threads && t < thread / kWarp * kWarp + kWarp; ++t) {
    if (engine.fibers[t]->state == State::kAtWarp) release_warp(t);
  }
}

void fiber_main() {
  for (;;) {
    engine.body(engine.context);
    finish_thread(engine.current);
    to_scheduler();
  }
}

void resume(int thread) {
  engine.current = thread;
  threadIdx = index_of(thread % engine.block_threads);
  blockIdx = block_of(thread).index;
  Fiber& fiber = *engine.fibers[thread];
  if (_setjmp(engine.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack = {fiber.stack, 0, kStackBytes};
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

unsigned random_number() {
  engine.seed = engine.seed * 1664525u + 1013904223u;
  return engine.seed >> 8;
}

// The next thread that can go on; -1: none.
int choose() {
  const int n = engine.threads;
  const bool down = backwards();
  const auto ready = [&](int t) { return engine.fibers[t]->state == State::kReady; };
  int begin = down ? engine.current + n - 1 : engine.current + 1;
  if (schedule() == Schedule::kRandom) {
    begin = static_cast<int>(random_number() % static_cast<unsigned>(n));
  } else if (schedule() == Schedule::kGreedy || schedule() == Schedule::kGreedyReverse) {
    const int first = engine.current / kWarp * kWarp;
    for (int i = 0; i < kWarp; ++i) {
      const int t = first + (down ? kWarp - 1 - i : i);
      if (t < n && ready(t)) return t;
    }
  }
  for (int i = 0; i < n; ++i) {
    const int t = (down ? begin - i + n : begin + i) % n;
    if (ready(t)) return t;
  }
  return -1;
}

// Copies land in any order; false: there are none.
bool land_copy() {
  if (engine.copies.empty()) return false;
  const size_t last = engine.copies.size() - 1;
  const size_t i = backwards() ? last : schedule() == Schedule::kRandom ? random_number() % (last + 1) : 0;
  const std::function<void()> land = std::move(engine.copies[i]);
  engine.copies.erase(engine.copies.begin() + static_cast<std::ptrdiff_t>(i));
  land();
  return true;
}

// What lies kSharedBegin before the dynamic shared memory of a block.
std::byte* shared_origin(int rank) {
  const auto data = reinterpret_cast<uintptr_t>(engine.shared.data());
  return engine.shared.data() + (kSharedAlign - data % kSharedAlign) % kSharedAlign +
         static_cast<size_t>(rank) * engine.block_shared;
}

void prepare(int threads) {
  while (static_cast<int>(engine.fibers.size()) < threads) {
    auto fiber = std::make_unique<Fiber>();
    void* stack =
        mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, kPage, PROT_NONE) != 0) std::abort();
    fiber->stack = static_cast<std::byte*>(stack) + kPage;
    engine.fibers.push_back(std::move(fiber));
  }
}

bool run_cluster() {
  for (int t = 0; t < engine.threads; ++t) engine.fibers[t]->state = State::kReady;
  engine.live = engine.threads;
  engine.at_cluster = 0;
  engine.apart = false;
  engine.current = backwards() ? 0 : engine.threads - 1;
  while (engine.live > 0) {
    const int next = choose();
    if (next < 0 && land_copy()) continue;
    if (next < 0) return false;
    resume(next);
    if (engine.apart) return false;
  }
  if (!engine.copies.empty()) fail("a block ends while copies into its shared memory are under way");
  return true;
}

size_t most_shared(const void* kernel) {
  const auto asked = engine.allowed_shared.find(kernel);
  return asked == engine.allowed_shared.end() ? kMostShared : asked->second;
}

// Fresh shared memory and blocks, of which the first one is `first`.
void enter_cluster(int64_t first, int size) {
  engine.blocks.assign(static_cast<size_t>(size), {});
  for (int rank = 0; rank < size; ++rank) {
    const int64_t b = first + rank;
    engine.blocks[static_cast<size_t>(rank)].index = {static_cast<unsigned>(b % gridDim.x),
                                                      static_cast<unsigned>(b / gridDim.x % gridDim.y),
                                                      static_cast<unsigned>(b / gridDim.x / gridDim.y)};
    engine.blocks[static_cast<size_t>(rank)].live = engine.block_threads;
  }
  // NaN to those who read what nobody wrote
  std::fill(engine.shared.begin(), engine.shared.end(), std::byte{0xff});
  std::fill(__start_quernel_shared, __stop_quernel_shared, std::byte{0xff});
}

}  // namespace

void run(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context) {
  run_clusters(kernel, 1, grid, block, shared_bytes, body, context);
}

void run_clusters(const void* kernel, int size, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*),
                  void* context) {
  engine.block_threads = static_cast<int>(block.x * block.y * block.z);
  if (engine.block_threads < 1 || engine.block_threads > kMostThreads) return fail("a block has 1 to 1024 threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return fail("the grid is empty or too large");
  if (size > kMostRanks || grid.x % static_cast<unsigned>(size) != 0)
    return fail("the grid is not of whole clusters, or they are too large");
  if (shared_bytes > most_shared(kernel)) return fail("a kernel asks for more than 48 KB of shared memory");
  MemoryAccess access;
  engine.threads = engine.block_threads * size;
  prepare(engine.threads);
  engine.body = body;
  engine.context = context;
  engine.block_shared = (kSharedBegin + shared_bytes + kSharedAlign - 1) / kSharedAlign * kSharedAlign;
  engine.shared.resize(kSharedAlign + engine.block_shared * static_cast<size_t>(size));
  gridDim = grid;
  blockDim = block;
  const int64_t clusters = int64_t{grid.x} * grid.y * grid.z / size;
  for (int64_t i = 0; i < clusters; ++i) {
    enter_cluster((reversed() ? clusters - 1 - i : i) * size, size);
    const bool done = run_cluster();
    engine.copies.clear();
    if (done) continue;
    for (const auto& fiber : engine.fibers) fiber->begun = false;
    return fail("deadlock: threads of a block wait for what never comes");
  }
}

void* shared_memory() { return shared_origin(rank_of(engine.current)) + kSharedBegin; }

int cluster_rank() { return rank_of(engine.current); }

void cluster_barrier() {
  if (++engine.at_cluster < engine.live) return wait_on(&engine.at_cluster);
  engine.at_cluster = 0;
  wake(&engine.at_cluster);
}

void* pointer_of_rank(void* shared, int rank) {
  return static_cast<std::byte*>(shared) - shared_origin(rank_of(engine.current)) + shared_origin(rank);
}

unsigned shared_address(const void* place) {
  const auto address =
      reinterpret_cast<uintptr_t>(place) - reinterpret_cast<uintptr_t>(shared_origin(rank_of(engine.current)));
  if (address >= kAllShared) fail("an address is not in dynamic shared memory");
  return static_cast<unsigned>(address % kAllShared);
}

void* shared_pointer(unsigned address) { return shared_origin(rank_of(engine.current)) + address; }

void allow_shared(const void* kernel, size_t bytes) {
  if (bytes > kAllShared) return fail("a kernel asks for more than 227 KB of shared memory");
  engine.allowed_shared[kernel] = bytes;
}

void wait_on(const void* place) {
  Fiber& fiber = *engine.fibers[engine.current];
  fiber.state = State::kWaiting;
  fiber.awaited = place;
  to_scheduler();
}

void wake(const void* place) {
  for (int t = 0; t < engine.threads; ++t) {
    Fiber& fiber = *engine.fibers[t];
    if (fiber.state == State::kWaiting && fiber.awaited == place) fiber.state = State::kReady;
  }
}

void copy_apart(std::function<void()> land) {
  if (copies_late())
    engine.copies.push_back(std::move(land));
  else
    land();
}

void block_barrier(const char* file, int line) {
  Block& block = block_of(engine.current);
  if (block.at_barrier == 0) {
    block.file = file;
    block.line = line;
  } else if (line != block.line || (file != block.file && std::strcmp(file, block.file) != 0)) {
    std::snprintf(engine.text, sizeof engine.text, "threads of a block wait at different barriers: %s:%d and %s:%d",
                  block.file, block.line, file, line);
    fail(engine.text);
    engine.apart = true;
  }
  engine.fibers[engine.current]->state = State::kAtBlock;
  ++block.at_barrier;
  release_block(engine.current);
  to_scheduler();
}

void warp_barrier(unsigned mask) {
  Fiber& fiber = *engine.fibers[engine.current];
  fiber.state = State::kAtWarp;
  fiber.mask = mask;
  release_warp(engine.current);
  to_scheduler();
}

int lane() { return engine.current % kWarp; }

uint64_t exchange(unsigned mask, uint64_t value, int source) {
  const int self = engine.current;
  engine.slots[self] = value;
  warp_barrier(mask);
  const int from = self / kWarp * kWarp + source;
  const uint64_t result =
      source >= 0 && source < kWarp && from < engine.threads && (mask >> source & 1) ? engine.slots[from] : value;
  warp_barrier(mask);
  return result;
}

unsigned ballot(unsigned mask, bool predicate) {
  const int self = engine.current, first = self / kWarp * kWarp;
  engine.slots[self] = predicate;
  warp_barrier(mask);
  unsigned result = 0;
  for (int i = 0; i < kWarp && first + i < engine.threads; ++i) {
    if ((mask >> i & 1) && engine.slots[first + i]) result |= 1u << i;
  }
  warp_barrier(mask);
  return result;
}

bool copies_late() {
  static const bool late = !is_early("QUERNEL_CUDA_COPIES");
  return late;
}
bool products_late() {
  static const bool late = !is_early("QUERNEL_CUDA_PRODUCTS");
  return late;
}

bool reversed() { return backwards(); }

void begin_capture() { engine.captured.emplace(); }

Graph end_capture() {
  Graph graph = std::move(*engine.captured);
  engine.captured.reset();
  return graph;
}

bool capturing() { return engine.captured.has_value(); }

void submit(std::function<void()> launch) {
  if (capturing())
    engine.captured->push_back(std::move(launch));
  else
    launch();
}

void fail(const char* message) {
  if (!engine.error) engine.error = message;
}

const char* take_error() {
  const char* error = engine.error;
  engine.error = nullptr;
  return error;
}

}  // namespace quernel::emulated
