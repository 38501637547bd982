// B packed as a whole. An item takes the groups of 64 columns, so that it reads 256 bytes of a row at a time.
#include "kernels/pack_block.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
Status run(const PackArgs& p, Range range) {
  using T = typename V::Scalar;
  const int64_t panels = (p.n + kPanel - 1) / kPanel, rows = p.taps * p.k;
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t panel = item % panels, tap = item / panels % p.taps, batch = item / panels / p.taps;
    const int64_t first = panel * kPanel, cols = p.n - first < kPanel ? p.n - first : kPanel;
    const T* src =
        static_cast<const T*>(p.src) + p.src_offset + batch * p.src_batch + tap * p.src_tap + first * p.src_col;
    T* dst = static_cast<T*>(p.dst) + batch * p.dst_batch + first * rows + tap * p.k * kPackWidth<T>;
    pack_block<V>(Unpacked<T>{src, p.k, p.src_row, p.src_col}, Packed<T>{dst, rows * kPackWidth<T>, cols});
  }
  return {};
}

}  // namespace

Status pack_f32(const PackArgs& args, Range range, const Ctx&) { return run<VecF32>(args, range); }
Status pack_f64(const PackArgs& args, Range range, const Ctx&) { return run<VecF64>(args, range); }

}  // namespace quernel::QUERNEL_ISA
