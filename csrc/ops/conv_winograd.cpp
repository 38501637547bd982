#include "ops/conv_winograd.h"

#include <algorithm>
#include <string>
#include <utility>

#include "ops/common.h"
#include "ops/conv_shape.h"
#include "ops/matmul.h"
#include "runtime/derived.h"

namespace quernel::ops {
namespace {

// Where it pays, measured on Zen 3. Fewer channels: the transforms cost what they save. Few pixels for the weights: to
// transform, and to read, 16 or 36 values where there were 9 takes longer than the products.
constexpr int64_t kLeastChannels = 32;
constexpr int64_t kLeastChannelsWide = 16;     // with wide registers, a vector of them;
constexpr int64_t kLeastChannelsStrided = 64;  // with stride 2, which saves less: 32 to 64 took 1.13 times as long
constexpr int64_t kLeastPixels = 49;
constexpr int64_t kMostPairsPerPixel = 1024;
constexpr int64_t kMostPairsOfFour = 1 << 15;  // more weights: those of edge 4 would come from memory

constexpr int64_t kBlockTiles = 48;  // so many that the weights' way into L2 costs little
constexpr int64_t kLeastBlockTiles = 12;
constexpr int64_t kBlockBytes = 2 << 20;  // of scratch
constexpr double kShortItemNs = 20e3;

constexpr int64_t kGradRows = 64;        // of dU in an item
constexpr int64_t kGradBlockTiles = 96;  // so many that dU, which is added to each time, costs little
constexpr int64_t kLeastGradTiles = 24;
constexpr int64_t kGradBlockBytes = 4 << 20;

// An adjoint as the forward pass that it is. With stride 2, padding says where the source of the first tile begins.
ConvShape as_forward(ConvShape s) {
  std::swap(s.h, s.oh);
  std::swap(s.w, s.ow);
  std::swap(s.c, s.o);
  const auto pad = [&](int64_t p) { return s.stride_h == 1 ? 2 - p : p % 2 ? -(p / 2) : 1 - p / 2; };
  s.pad_h = pad(s.pad_h);
  s.pad_w = pad(s.pad_w);
  return s;
}

int64_t count_tiles(const ConvShape& s, WinogradTiles tiles) {
  return s.n * ceil_div(s.oh, tile_edge(tiles)) * ceil_div(s.ow, tile_edge(tiles));
}
int64_t points_of(WinogradTiles tiles) { return tile_points(tiles) * tile_points(tiles); }

Tensor pack(const Tensor& weight, const ConvShape& s, WinogradTiles tiles, bool adjoint) {
  const std::string kind = (adjoint ? "winograd_adjoint/" : "winograd/") + std::to_string(points_of(tiles));
  return derived(weight, kind.c_str(), [&] {
    constexpr int64_t kTaps = 9;
    WinogradPackArgs pack;
    pack.c = s.c, pack.o = s.o;
    pack.tiles = tiles;
    if (adjoint) {  // both kernel axes reversed
      pack.src_row = kTaps * s.o;
      pack.src_col = 1;
      pack.src_tap = -s.o;
      pack.src_offset = (kTaps - 1) * s.o;
    } else {
      pack.src_row = 1;
      pack.src_col = kTaps * s.c;
      pack.src_tap = s.c;
    }
    const Tensor packed =
        Tensor::empty(DType::kFloat32, {points_of(tiles), s.c, packed_columns(DType::kFloat32, s.o)}, weight.device());
    launch("pack", &KernelTable::winograd_pack_f32, pack,
           {ceil_div(s.o, kPanel), static_cast<double>(s.c * kPanel * points_of(tiles))},
           {read(&WinogradPackArgs::src, weight), write(&WinogradPackArgs::dst, packed)});
    return packed;
  });
}

double pass_ns(const ConvShape& s, WinogradTiles tiles) {
  const double products = static_cast<double>(count_tiles(s, tiles) * points_of(tiles));
  return mac_ns(DType::kFloat32, products * static_cast<double>(s.c * s.o)) +
         products * 0.4 * static_cast<double>(s.c + s.o);
}

// Chooses the blocks of a pass.
Work split(WinogradArgs& args) {
  const int64_t tiles = count_tiles(args.s, args.tiles), panels = ceil_div(args.s.o, kPanel);
  const int64_t tile_bytes = points_of(args.tiles) * (args.s.c + kPanel) * static_cast<int64_t>(sizeof(float));
  const double total = pass_ns(args.s, args.tiles);
  args.panels = panels;
  for (int64_t block = std::clamp(kBlockBytes / tile_bytes, kLeastBlockTiles, kBlockTiles);;) {
    args.block = ceil_div(tiles, ceil_div(tiles, block));
    const int64_t items = ceil_div(tiles, args.block) * ceil_div(panels, args.panels);
    const double item_ns = total / static_cast<double>(items);
    const bool shortest = args.panels == 1 && block <= kLeastBlockTiles;
    if (shortest || items >= kBusyItems || item_ns <= kShortItemNs) return {items, item_ns, conv_flops(args.s)};
    if (args.panels > 1)
      args.panels = ceil_div(args.panels, 2);
    else
      block = std::max(block / 2, kLeastBlockTiles);
  }
}

// Chooses blocks and splits of a gradient of the weights.
Work split(WinogradGradWeightArgs& args) {
  const ConvShape& s = args.s;
  const int64_t tiles = count_tiles(s, args.tiles);
  args.rows = ceil_div(s.c, ceil_div(s.c, kGradRows));
  const int64_t tile_bytes = points_of(args.tiles) * (args.rows + s.o) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::clamp(kGradBlockBytes / tile_bytes, kLeastGradTiles, kGradBlockTiles);
  args.block = ceil_div(tiles, ceil_div(tiles, most));
  const int64_t parts = ceil_div(s.c, args.rows), blocks = ceil_div(tiles, args.block);
  args.splits = std::max<int64_t>(1, std::min(ceil_div(kBusyItems, parts), blocks / 2));
  const int64_t items = parts * args.splits;
  return {items, pass_ns(s, args.tiles) / static_cast<double>(items), conv_flops(s)};
}

// Whether along an axis every result reads a pixel and every pixel is read: rounding of their tile would reach the
// others, which are exactly 0. With stride 2 a last pixel that is not read meets no other in its tile.
bool is_tight(int64_t in, int64_t out, int64_t stride, int64_t pad) {
  const int64_t end = (out - 1) * stride + 3 - in - pad;
  return std::min(pad, end + stride - 1) >= 0 && std::max(pad, end) <= 2;
}

bool is_suited(const ConvShape& s, int64_t stride, DType dtype, Device device) {
  const int64_t least = stride == 2 ? kLeastChannelsStrided : is_wide() ? kLeastChannelsWide : kLeastChannels;
  return s.kh == 3 && s.kw == 3 && s.stride_h == stride && s.stride_w == stride && s.dilation_h == 1 &&
         s.dilation_w == 1 && s.groups == 1 && is_tight(s.h, s.oh, stride, s.pad_h) &&
         is_tight(s.w, s.ow, stride, s.pad_w) && dtype == DType::kFloat32 && std::min(s.c, s.o) >= least &&
         has_kernel(&KernelTable::winograd_f32, device);
}

// Products of a pair of channels that stride 2 takes per image, transforms included: they take three eighths as long.
int64_t strided_products(const ConvShape& s, bool adjoint) {
  const int64_t tiles = adjoint ? ceil_div(s.h, 4) * ceil_div(s.w, 4) : ceil_div(s.oh, 2) * ceil_div(s.ow, 2);
  return tiles * points_of(WinogradTiles::kStrided) * 11 / 8;
}

WinogradTiles strided_tiles(const ConvShape& s, DType dtype, bool adjoint, Device device) {
  if (!is_wide() || !is_suited(s, 2, dtype, device)) return WinogradTiles::kNone;
  const int64_t pixels = s.oh * s.ow;
  if (pixels < kLeastPixels || s.c * s.o > kMostPairsPerPixel * pixels || strided_products(s, adjoint) > 9 * pixels)
    return WinogradTiles::kNone;
  if (!adjoint) return WinogradTiles::kStrided;
  if ((s.pad_h + s.pad_w) % 2 != 0) return WinogradTiles::kNone;
  return s.pad_h % 2 != 0 ? WinogradTiles::kSpreadOdd : WinogradTiles::kSpreadEven;
}

}  // namespace

WinogradTiles winograd_tiles(const ConvShape& s, DType dtype, bool adjoint, Device device) {
  if (!is_suited(s, 1, dtype, device)) return strided_tiles(s, dtype, adjoint, device);
  const int64_t pixels = adjoint ? s.h * s.w : s.oh * s.ow, pairs = s.c * s.o;
  if (pixels < kLeastPixels || pairs > kMostPairsPerPixel * pixels) return WinogradTiles::kNone;
  return pairs <= kMostPairsOfFour ? WinogradTiles::kFour : WinogradTiles::kTwo;
}

void launch_winograd(const char* op, const ConvShape& s, WinogradTiles tiles, bool adjoint, const Tensor& source,
                     const Tensor& weight, const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre) {
  WinogradArgs args;
  args.s = adjoint ? as_forward(s) : s;
  args.tiles = tiles;
  args.activation = epilogue.activation;
  const Work work = split(args);
  launch(op, &KernelTable::winograd_f32, args, work,
         {read(&WinogradArgs::x, source), read(&WinogradArgs::u, pack(weight, args.s, tiles, adjoint)),
          read<WinogradArgs>(&WinogradArgs::bias, epilogue.bias),
          read<WinogradArgs>(&WinogradArgs::residual, epilogue.residual), write<WinogradArgs>(&WinogradArgs::pre, pre),
          write(&WinogradArgs::y, y)});
}

// Many weights take the edge that costs less, also where a forward pass does not pay: dU is written and read once,
// which takes as long as the products of kSumTiles tiles; transforms take a third as long as their products. (16 images
// of 7 x 7, 512 to 512 channels, in 0.75 of the time of the sum over taps, 32 of 8 x 8, 256 to 256, in 0.75 of edge
// 2's.)
WinogradTiles winograd_grad_weight_tiles(const ConvShape& s, DType dtype, Device device) {
  using enum WinogradTiles;
  constexpr int64_t kSumTiles = 100;
  const auto cost = [&](WinogradTiles t) { return points_of(t) * (count_tiles(s, t) * 4 / 3 + kSumTiles); };
  WinogradTiles tiles = winograd_tiles(s, dtype, false, device);
  if (tiles != kFour && is_suited(s, 1, dtype, device)) {
    const WinogradTiles best = cost(kTwo) < cost(kFour) ? kTwo : kFour;
    if (tiles != kNone || cost(best) <= 10 * s.n * s.oh * s.ow) tiles = best;
  }
  if (tiles == kStrided && cost(tiles) > 10 * s.n * s.oh * s.ow) return kNone;
  return tiles != kNone && count_tiles(s, tiles) >= kLeastGradTiles ? tiles : kNone;
}

void launch_winograd_grad_weight(const ConvShape& s, WinogradTiles tiles, const Tensor& x, const Tensor& g,
                                 const Tensor& dw) {
  const char* op = "conv2d_grad_weight";
  WinogradGradWeightArgs args;
  args.s = s;
  args.tiles = tiles;
  const Work work = split(args);
  const Shape shape{args.splits, points_of(tiles), s.c, packed_columns(DType::kFloat32, s.o)};
  const Tensor du = Tensor::empty(DType::kFloat32, shape, x.device());
  launch(op, &KernelTable::winograd_grad_weight_f32, args, work,
         {read(&WinogradGradWeightArgs::x, x), read(&WinogradGradWeightArgs::g, g),
          write(&WinogradGradWeightArgs::du, du)});
  WinogradSumArgs sum;
  sum.c = s.c, sum.o = s.o;
  sum.tiles = tiles, sum.splits = args.splits;
  constexpr int64_t kOutputs = kPackWidth<float>;
  const double values = static_cast<double>(kOutputs * s.c * points_of(tiles) * args.splits);
  launch(op, &KernelTable::winograd_sum_f32, sum, {ceil_div(s.o, kOutputs), 0.2 * values},
         {read(&WinogradSumArgs::du, du), write(&WinogradSumArgs::dw, dw)});
}

}  // namespace quernel::ops
