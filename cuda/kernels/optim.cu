// Optimizer steps over flat segments, in place: one pass, bound by memory. Hyperparameters are device buffers, read
// when the kernel runs; what depends on them alone a block computes once, in double, before its elements.
#include "core/launch.h"
#include "kernels/optim_rules.h"

namespace quernel::cuda {
namespace {

constexpr int64_t kMostBlocks = 1024;

template <template <class> class Rule, class T>
__global__ void __launch_bounds__(kThreads) update_segment(UpdateArgs a) {
  auto* decided = shared_memory<Decided<Rule<T>, T>>();
  if (threadIdx.x == 0) *decided = Decided<Rule<T>, T>(a);
  __syncthreads();
  const Decided<Rule<T>, T> d = *decided;
  const Segment<T> s(a);
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < a.size; i += step) {
    T g = s.grad[i], p = s.param[i];
    d.penalties.apply(g, p);
    d.rule.update(s, i, g, p);
  }
}

unsigned blocks_for(int64_t size) { return static_cast<unsigned>(least(ceil_div(size, kThreads), kMostBlocks)); }

template <template <class> class Rule>
Status run(const UpdateArgs& a, const Ctx& ctx) {
  if (a.size > 0)
    visit_floating(a.dtype, [&]<class T>(T) {
      launch(ctx, update_segment<Rule, T>, blocks_for(a.size), kThreads, sizeof(Decided<Rule<T>, T>), a);
    });
  return {};
}

struct Advance {
  int64_t* step;

  __device__ void operator()(int64_t) const { ++*step; }
};

template <class T>
struct Average {
  MovingAverageArgs a;

  __device__ void operator()(int64_t i) const {
    const double* hyper = static_cast<const double*>(a.hyper);
    const double count = static_cast<double>(*static_cast<const int64_t*>(a.step)), warm = (1 + count) / (10 + count);
    const T fresh = static_cast<T>(1 - (hyper[1] != 0 && warm < hyper[0] ? warm : hyper[0]));
    T& average = static_cast<T*>(a.average)[i];
    average = multiply_add(fresh, static_cast<const T*>(a.param)[i] - average, average);
  }
};

}  // namespace

Status sgd(const UpdateArgs& a, Range, const Ctx& ctx) { return run<Sgd>(a, ctx); }
Status adagrad(const UpdateArgs& a, Range, const Ctx& ctx) { return run<Adagrad>(a, ctx); }
Status rmsprop(const UpdateArgs& a, Range, const Ctx& ctx) { return run<Rmsprop>(a, ctx); }
Status adam(const UpdateArgs& a, Range, const Ctx& ctx) { return run<Adam>(a, ctx); }
Status nadam(const UpdateArgs& a, Range, const Ctx& ctx) { return run<Nadam>(a, ctx); }
Status lion(const UpdateArgs& a, Range, const Ctx& ctx) { return run<Lion>(a, ctx); }

Status advance_step(const AdvanceStepArgs& a, Range, const Ctx& ctx) {
  for_each(ctx, 1, Advance{static_cast<int64_t*>(a.step)});
  return {};
}

Status moving_average(const MovingAverageArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.size, Average<T>{a}); });
  return {};
}

}  // namespace quernel::cuda
