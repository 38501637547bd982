// Clusters: neighbouring blocks, along x, that run at the same time and reach each other's shared memory. PTX under
// nvcc, for sm_90a. Under emulation the blocks of a cluster run at the same time too; as `__shared__` arrays are static
// there, their kernels have dynamic shared memory alone.
#pragma once
#include "core/launch.h"

#ifndef __CUDACC__
namespace quernel::emulated {

void run_clusters(const void* kernel, int size, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*),
                  void* context);
int cluster_rank();
void cluster_barrier();
void* pointer_of_rank(void* shared, int rank);  // the same place in another block of the cluster

}  // namespace quernel::emulated
#endif

namespace quernel::cuda {

// Which block of its cluster this is.
__device__ inline int cluster_rank() {
#ifndef __CUDACC__
  return emulated::cluster_rank();
#else
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#endif
}

// All threads of all blocks of the cluster meet; their shared memory exists until they have.
__device__ inline void cluster_barrier() {
#ifndef __CUDACC__
  emulated::cluster_barrier();
#else
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// As launch(), in clusters of `size` blocks; grid.x is a multiple of it.
template <class... P>
void launch_clusters(const Ctx& ctx, void (*kernel)(P...), int size, dim3 grid, dim3 block, size_t shared_bytes,
                     std::type_identity_t<P>... args) {
#ifdef __CUDACC__
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(size);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(ctx.stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, args...);
#else
  (void)ctx;
  emulated::submit([kernel, size, grid, block, shared_bytes, args = std::tuple<P...>{args...}]() mutable {
    struct Call {
      void (*kernel)(P...);
      std::tuple<P...>* args;
    } call{kernel, &args};
    emulated::run_clusters(
        reinterpret_cast<const void*>(kernel), size, grid, block, shared_bytes,
        [](void* c) { std::apply(static_cast<Call*>(c)->kernel, *static_cast<Call*>(c)->args); }, &call);
  });
#endif
}

}  // namespace quernel::cuda
