// One access that guarded memory must stop, chosen by the argument, through the library's own pool: overrun, freed,
// host; or unwritten, which prints what lies in new memory. Exits with 0 if nothing stops it.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <string_view>

#include "core/launch.h"
#include "runtime/cuda_library.h"

extern "C" const quernel::CudaLibrary* quernel_cuda_library();

namespace quernel::cuda {

extern const KernelTable table;
constinit const KernelTable table{};

namespace {

struct Set {
  float* values;
  __device__ void operator()(int64_t i) const { values[i] = 1.f; }
};

float* allocate(size_t count) {
  void* data = nullptr;
  return quernel_cuda_library()->allocate(&data, count * sizeof(float)) ? nullptr : static_cast<float*>(data);
}

float first(const float* data) {
  float value = 0.f;
  quernel_cuda_library()->download(&value, data, sizeof value);
  return value;
}

int run(std::string_view what) {
  constexpr int64_t kCount = 100;
  float* data = allocate(kCount);
  const Ctx ctx{};
  if (what == "unwritten") {
    const float before = first(data);
    for_each(ctx, kCount, Set{data});
    quernel_cuda_library()->release(data);
    std::printf("%g %g\n", std::fabs(before), std::fabs(first(allocate(kCount))));
    return 0;
  }
  for_each(ctx, kCount, Set{data});
  if (what == "overrun") for_each(ctx, kCount + 1, Set{data});
  if (what == "freed") {
    quernel_cuda_library()->release(data);
    for_each(ctx, kCount, Set{data});
  }
  if (what == "host") {
    if (pkey_alloc(0, 0) < 0) std::printf("no protection keys\n");
    std::fflush(stdout);
    *static_cast<volatile float*>(data) = 1.f;
  }
  return 0;
}

}  // namespace
}  // namespace quernel::cuda

int main(int, char** argv) { return quernel::cuda::run(argv[1]); }
