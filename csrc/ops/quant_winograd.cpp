#include "ops/quant_winograd.h"

#include <algorithm>

#include "ops/common.h"
#include "runtime/derived.h"
#include "runtime/launch.h"
#include "runtime/thread_pool.h"

namespace quernel::ops {
namespace {

// Points along an axis at which Winograd's algorithm with VNNI multiplies: six per four outputs, four per rest of two.
int64_t points(int64_t size) { return (size + 1) / 4 * 6 + (size % 4 == 1 || size % 4 == 2 ? 4 : 0); }

int64_t tiles_of(const ConvShape& s) { return s.n * ceil_div(s.oh, 4) * ceil_div(s.ow, 4); }

}  // namespace

// Winograd's algorithm makes a fourth of the products, in int16. Channels pay for its transformations. With VNNI those
// products run at half the pace of products of bytes, so it takes more: 32 channels and columns, 2.8 times fewer
// products of the 4 times that maps without a rest save (7x7: 3.1 times; 5x5: 2.3 times, and 0.8 of the speed), and
// tiles that share the reading of transformed weights, eight times as large: nine, if those do not fit into L2
// (4x4x256 took 1.4 times as long), or are not kept: to transform them takes as long as the products of five. More than
// 256 channels would pay, too, with many tiles, but take 20 MB and more. Few tiles and many: both layouts are kept.
bool quant_winograd_pays(const ConvShape& s, const Tensor& weight) {
  const Device device = weight.device();
  const bool fits = s.kh == 3 && s.kw == 3 && s.stride_h * s.stride_w * s.dilation_h * s.dilation_w * s.groups == 1 &&
                    s.c % 4 == 0 && has_kernel(&KernelTable::winograd_u8s8, device);
  if (!dots_bytes()) return fits && s.c >= 16 && s.o >= 16;
  const int64_t least_tiles = s.c * s.o <= 8 << 10 && keeps_derived(weight) ? 4 : 9;
  return fits && !dots_tiles() && s.c >= 32 && s.c <= 256 && s.o >= 32 && tiles_of(s) >= least_tiles &&
         9 * 5 * s.oh * s.ow >= 14 * points(s.oh) * points(s.ow);
}

Tensor pack_quant_winograd(const Tensor& weight, int64_t o, int64_t c) {
  return derived(weight, "pack_winograd_s8", [&] {
    const int64_t panels = ceil_div(o, kQPanel), panel_bytes = 36 * c * kQPanel * 2;
    const Tensor packed = Tensor::empty(DType::kInt8, {panels, panel_bytes}, weight.device());
    PackArgs args;
    args.k = c;
    args.n = o;
    args.src_row = 1;
    args.src_col = 9 * c;
    args.src_tap = c;
    launch("pack_winograd_s8", &KernelTable::pack_winograd_s8, args,
           {ceil_div(panels, 2), 2.0 * static_cast<double>(panel_bytes)},
           {read(&PackArgs::src, weight), write(&PackArgs::dst, packed)});
    return packed;
  });
}

// Transformed tiles stay in L2. Without VNNI many share the transformation of weights; with it weights come
// transformed, and threads get as many tiles each, but not so few that reading the weights is all they do. Fewer blocks
// than threads are shared out by columns.
void launch_quant_winograd(QConvArgs args, const Tensor& x, const Tensor& w, const Tensor& y, const QOutput& out) {
  const bool dots = dots_bytes();
  const int64_t input_bytes = (dots ? 580 : 300) << 10, most_tiles = dots ? 16 : 32;
  constexpr int64_t kChannelBytes = 36 * 2;  // of a tile, transformed
  const ConvShape& s = args.s;
  const int64_t tiles = tiles_of(s);
  const int64_t most = std::clamp<int64_t>(input_bytes / (kChannelBytes * s.c) / 4 * 4, 4, most_tiles);
  int64_t blocks = ceil_div(tiles, most);
  if (dots) {
    const int64_t threads = ThreadPool::instance().size();
    constexpr int64_t kPair = 2 * kQPanel, kLeastTiles = 8;  // kPair: of panels, transformed together
    if (blocks > 1) blocks = std::clamp(tiles / kLeastTiles, blocks, ceil_div(blocks, threads) * threads);
    args.tiles = ceil_div(tiles, blocks);
    args.columns = ceil_div(ceil_div(s.o, kPair), ceil_div(threads, blocks)) * kPair;
  } else {
    args.tiles = ceil_div(ceil_div(tiles, blocks), 4) * 4;
    args.columns = ceil_div(tiles, args.tiles) < kBusyItems ? kQColumns : ceil_div(s.o, kQPanel) * kQPanel;
  }
  blocks = ceil_div(tiles, args.tiles);
  const double macs = static_cast<double>(args.tiles * args.columns * 16) * static_cast<double>(9 * s.c);
  launch("qconv2d", &KernelTable::winograd_u8s8, args,
         {blocks * ceil_div(s.o, args.columns), quant_mac_ns(macs / 2),
          2.0 * static_cast<double>(s.n * s.oh * s.ow * s.o * 9 * s.c)},
         {read(&QConvArgs::x, x), read(&QConvArgs::w, w), read(&QConvArgs::bias, out.bias),
          read(&QConvArgs::scale, out.scale), write(&QConvArgs::y, y)});
}

}  // namespace quernel::ops
