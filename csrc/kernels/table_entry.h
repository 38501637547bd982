// What table.cpp and those of single levels share: a level's name, and typed kernels as entries of the untyped table.
#pragma once
#include "kernels/isa.h"
#include "kernels/table.h"

#define QUERNEL_STRING_(x) #x
#define QUERNEL_STRING(x) QUERNEL_STRING_(x)

namespace quernel::QUERNEL_ISA {

template <class Args>
using Fn = Status(const Args&, Range, const Ctx&);
template <class Args>
using ScratchFn = int64_t(const Args&);

namespace {

// Adapts typed kernels to the table's untyped signatures.
template <auto F>
struct Erased;
template <class Args, Fn<Args>* F>
struct Erased<F> {
  using ArgsType = Args;
  static Status run(const void* args, Range range, const Ctx& ctx) {
    return F(*static_cast<const Args*>(args), range, ctx);
  }
  static constexpr const char* signature() { return __PRETTY_FUNCTION__; }
};

template <class Args, ScratchFn<Args>* F>
int64_t erased_scratch(const void* args) {
  return F(*static_cast<const Args*>(args));
}

// An entry without and with scratch memory.
template <auto F>
constexpr Kernel<typename Erased<F>::ArgsType> entry{Erased<F>::run, nullptr, Erased<F>::signature()};
template <auto F, auto Scratch>
constexpr Kernel<typename Erased<F>::ArgsType> entry_with{
    Erased<F>::run, erased_scratch<typename Erased<F>::ArgsType, Scratch>, Erased<F>::signature()};

}  // namespace

}  // namespace quernel::QUERNEL_ISA
