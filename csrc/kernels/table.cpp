// The full table, compiled once per level (scalar, avx2, avx512). Dot-product levels fill table_dot.cpp.
#include "kernels/table.h"

#include "kernels/isa.h"

#define QUERNEL_STRING_(x) #x
#define QUERNEL_STRING(x) QUERNEL_STRING_(x)

namespace quernel::QUERNEL_ISA {

template <class Args>
using Fn = Status(const Args&, Range, const Ctx&);
template <class Args>
using ScratchFn = int64_t(const Args&);

// elementwise
Fn<UnaryArgs> unary;

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

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .table =
        {
            // elementwise
            .unary = entry<unary>,
        },
};

}  // namespace quernel::QUERNEL_ISA
