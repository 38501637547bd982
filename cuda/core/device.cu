#include <cuda.h>  // types alone: the driver's functions are asked for by name
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "core/device.h"
#include "core/tma.h"

namespace quernel::cuda {

extern const bool kEmulated = false;

namespace {

cudaStream_t stream = nullptr;
cudaStream_t captured = nullptr;      // what it is given becomes a graph: nobody else waits for it
cudaMemPool_t memory_pool = nullptr;  // the driver's own, which CuPy and torch can use as well; null: it has none
int capability = 0, multiprocessors = 0;
bool capturing = false, has_warpgroups = false;
decltype(&cuTensorMapEncodeTiled) encode = nullptr;
decltype(&cuTensorMapEncodeIm2col) encode_pixels = nullptr;
bool refused = false;  // a matrix or images, by these

// An error that has been reported is not reported again at the next launch.
const char* text_of(cudaError_t code) {
  if (code == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(code);
}

// Reports an error at the launch that caused it, at the cost of waiting for each.
bool synchronizes() {
  static const bool chosen = is_switched_on("QUERNEL_CUDA_SYNC");
  return chosen;
}

// The pool keeps what is freed rather than giving it back to the system at the next wait.
const char* open_memory_pool() {
  int supported = 0;
  if (const char* failed = text_of(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, 0)))
    return failed;
  if (!supported) return nullptr;
  if (const char* failed = text_of(cudaDeviceGetDefaultMemPool(&memory_pool, 0))) return failed;
  uint64_t keep_all = UINT64_MAX;
  return text_of(cudaMemPoolSetAttribute(memory_pool, cudaMemPoolAttrReleaseThreshold, &keep_all));
}

// Arrays go to the device through pinned memory, a piece at a time: the host goes on when it has copied them there,
// while kernels before them still run. From pageable memory the driver would have it wait for these.
class Staging {
 public:
  const char* upload(void* device, const void* host, size_t nbytes) {
    if (!memory_) {
      if (const char* failed = open()) return failed;
    }
    for (size_t done = 0; done < nbytes; done += kPieceBytes, next_ = (next_ + 1) % kPieces) {
      const size_t size = nbytes - done < kPieceBytes ? nbytes - done : kPieceBytes;
      std::byte* piece = memory_ + next_ * kPieceBytes;
      if (const char* failed = text_of(cudaEventSynchronize(left_[next_]))) return failed;
      std::memcpy(piece, static_cast<const std::byte*>(host) + done, size);
      cudaError_t code =
          cudaMemcpyAsync(static_cast<std::byte*>(device) + done, piece, size, cudaMemcpyHostToDevice, stream);
      if (code == cudaSuccess) code = cudaEventRecord(left_[next_], stream);
      if (code != cudaSuccess) return text_of(code);
    }
    return nullptr;
  }

 private:
  static constexpr size_t kPieceBytes = 1 << 20, kPieces = 8;

  const char* open() {
    for (cudaEvent_t& event : left_) {
      if (event) continue;
      if (const char* failed = text_of(cudaEventCreateWithFlags(&event, cudaEventDisableTiming))) return failed;
    }
    void* memory = nullptr;
    if (const char* failed = text_of(cudaHostAlloc(&memory, kPieces * kPieceBytes, cudaHostAllocDefault)))
      return failed;
    memory_ = static_cast<std::byte*>(memory);
    return nullptr;
  }

  std::byte* memory_ = nullptr;
  cudaEvent_t left_[kPieces] = {};  // when a piece may be written again; at once, if never recorded
  size_t next_ = 0;
};
Staging staging;

__global__ void note_warpgroups(bool* has) { *has = kHasWarpgroups; }

template <class F>
bool find_in_driver(const char* name, F& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status{};
  const cudaError_t code = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &status);
  function = reinterpret_cast<F>(found);
  return code == cudaSuccess && status == cudaDriverEntryPointSuccess;
}

// Hopper's instructions are in the code for sm_90a alone, and descriptors of matrices are the driver's to make.
const char* look_for_warpgroups() {
  if (capability != 90) return nullptr;
  if (!find_in_driver("cuTensorMapEncodeTiled", encode) || !find_in_driver("cuTensorMapEncodeIm2col", encode_pixels))
    return text_of(cudaGetLastError());
  bool* has = nullptr;
  if (const char* failed = text_of(cudaMalloc(&has, sizeof *has))) return failed;
  note_warpgroups<<<1, 1>>>(has);
  const char* failed = text_of(cudaMemcpy(&has_warpgroups, has, sizeof *has, cudaMemcpyDeviceToHost));
  cudaFree(has);
  return failed;
}

}  // namespace

bool device_keeps_blocks() { return memory_pool == nullptr; }

const char* device_open() {
  if (stream) return nullptr;
  int count = 0;
  if (const char* failed = text_of(cudaGetDeviceCount(&count))) {
    cudaGetLastError();
    return failed;
  }
  if (count == 0) return "there is no CUDA device";
  cudaDeviceProp properties;
  if (const char* failed = text_of(cudaGetDeviceProperties(&properties, 0))) return failed;
  capability = properties.major * 10 + properties.minor;
  multiprocessors = properties.multiProcessorCount;
  if (capability < 75) return "the GPU is too old: compute capability 7.5 is needed";
  if (const char* failed = open_memory_pool()) return failed;
  if (const char* failed = text_of(cudaStreamCreateWithFlags(&captured, cudaStreamNonBlocking))) return failed;
  if (const char* failed = look_for_warpgroups()) return failed;
  return text_of(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
}

bool device_has_warpgroups() { return has_warpgroups; }

bool device_encode(TensorMap* map, const void* data, int64_t words, int64_t rows, int64_t row_bytes, int tile_rows) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= 64);
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(words), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch = static_cast<cuuint64_t>(row_bytes);
  const cuuint32_t tile[] = {kTileWords, static_cast<cuuint32_t>(tile_rows)}, steps[] = {1, 1};
  const CUresult code =
      encode(reinterpret_cast<CUtensorMap*>(map), CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, const_cast<void*>(data), sizes,
             &pitch, tile, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  refused = refused || code != CUDA_SUCCESS;
  return code == CUDA_SUCCESS;
}

bool device_encode_pixels(TensorMap* map, const void* data, const PixelGrid& grid, int tile_pixels) {
  const auto &down = grid.down, &across = grid.across;
  const auto words = static_cast<cuuint64_t>(grid.words), width = static_cast<cuuint64_t>(across.size);
  const auto height = static_cast<cuuint64_t>(down.size);
  const cuuint64_t sizes[] = {words, width, height, static_cast<cuuint64_t>(grid.images)};
  const cuuint64_t pitches[] = {words * 4, width * words * 4, height * width * words * 4};
  const int begin[] = {static_cast<int>(across.first), static_cast<int>(down.first)};
  const int end[] = {static_cast<int>(across.behind()), static_cast<int>(down.behind())};
  const cuuint32_t steps[] = {1, static_cast<cuuint32_t>(across.step), static_cast<cuuint32_t>(down.step), 1};
  const CUresult code = encode_pixels(
      reinterpret_cast<CUtensorMap*>(map), CU_TENSOR_MAP_DATA_TYPE_UINT32, 4, const_cast<void*>(data), sizes, pitches,
      begin, end, kTileWords, static_cast<cuuint32_t>(tile_pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  refused = refused || code != CUDA_SUCCESS;
  return code == CUDA_SUCCESS;
}

const char* device_describe(char* text, size_t size) {
  cudaDeviceProp properties;
  int driver = 0;
  if (const char* failed = text_of(cudaGetDeviceProperties(&properties, 0))) return failed;
  if (const char* failed = text_of(cudaDriverGetVersion(&driver))) return failed;
  std::snprintf(text, size, "%s (sm_%d%d, %zu MiB, driver for CUDA %d.%d)", properties.name, properties.major,
                properties.minor, properties.totalGlobalMem >> 20, driver / 1000, driver % 1000 / 10);
  return nullptr;
}

int device_capability() { return capability; }
int device_multiprocessors() { return multiprocessors; }

const char* device_allocate(void** data, size_t nbytes) {
  return text_of(memory_pool ? cudaMallocFromPoolAsync(data, nbytes, memory_pool, stream) : cudaMalloc(data, nbytes));
}

void device_release(void* data, size_t) { memory_pool ? cudaFreeAsync(data, stream) : cudaFree(data); }

void device_trim() {
  if (!memory_pool) return;
  cudaStreamSynchronize(stream);  // what is still to be freed is not given back
  cudaMemPoolTrimTo(memory_pool, 0);
}

const char* device_upload(void* device, const void* host, size_t nbytes) {
  return staging.upload(device, host, nbytes);
}

const char* device_download(void* host, const void* device, size_t nbytes) {
  if (nbytes == 0) return nullptr;
  if (const char* failed = text_of(cudaMemcpyAsync(host, device, nbytes, cudaMemcpyDeviceToHost, stream)))
    return failed;
  return text_of(cudaStreamSynchronize(stream));
}

const char* device_copy(void* to, const void* from, size_t nbytes) {
  return nbytes == 0 ? nullptr : text_of(cudaMemcpyAsync(to, from, nbytes, cudaMemcpyDeviceToDevice, stream));
}

const char* device_synchronize() { return text_of(cudaStreamSynchronize(stream)); }

void* device_stream() { return capturing ? captured : stream; }

const char* device_wait(void* waiting, void* other) {
  if (waiting == other) return nullptr;
  cudaEvent_t event = nullptr;
  if (const char* failed = text_of(cudaEventCreateWithFlags(&event, cudaEventDisableTiming))) return failed;
  cudaError_t code = cudaEventRecord(event, static_cast<cudaStream_t>(other));
  if (code == cudaSuccess) code = cudaStreamWaitEvent(static_cast<cudaStream_t>(waiting), event, 0);
  cudaEventDestroy(event);  // once it has happened
  return text_of(code);
}

const char* device_begin_capture() {
  const cudaError_t code = cudaStreamBeginCapture(captured, cudaStreamCaptureModeThreadLocal);
  capturing = code == cudaSuccess;
  return text_of(code);
}

const char* device_end_capture(void** executable) {
  capturing = false;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  cudaError_t code = cudaStreamEndCapture(captured, &graph);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&made, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  *executable = made;
  return text_of(code);
}

const char* device_launch_graph(void* graph) {
  return text_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream));
}

void device_release_graph(void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

const char* device_launch_error() {
  if (refused) {
    refused = false;
    return "the driver refuses to describe a matrix or images for copies by tiles";
  }
  if (synchronizes() && !capturing) {
    if (const char* failed = device_synchronize()) return failed;
  }
  return text_of(cudaGetLastError());
}

}  // namespace quernel::cuda
