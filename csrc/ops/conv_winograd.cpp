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

// An adjoint of stride 1 as the forward pass that it is.
ConvShape as_forward(ConvShape s) {
  std::swap(s.h, s.oh);
  std::swap(s.w, s.ow);
  std::swap(s.c, s.o);
  s.pad_h = s.kh - 1 - s.pad_h;
  s.pad_w = s.kw - 1 - s.pad_w;
  return s;
}

int64_t tiles_of(const ConvShape& s, int64_t edge) { return s.n * ceil_div(s.oh, edge) * ceil_div(s.ow, edge); }
int64_t points_of(int64_t edge) { return (edge + 2) * (edge + 2); }

Tensor pack(const Tensor& weight, const ConvShape& s, int64_t edge, bool adjoint) {
  const std::string kind = (adjoint ? "winograd_adjoint/" : "winograd/") + std::to_string(edge);
  return derived(weight, kind.c_str(), [&] {
    constexpr int64_t kTaps = 9;
    WinogradPackArgs pack;
    pack.c = s.c, pack.o = s.o;
    pack.edge = edge;
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
        Tensor::empty(DType::kFloat32, {points_of(edge), s.c, packed_columns(DType::kFloat32, s.o)}, weight.device());
    launch("pack", &KernelTable::winograd_pack_f32, pack,
           {ceil_div(s.o, kPanel), static_cast<double>(s.c * kPanel * points_of(edge))},
           {read(&WinogradPackArgs::src, weight), write(&WinogradPackArgs::dst, packed)});
    return packed;
  });
}

double pass_ns(const ConvShape& s, int64_t edge) {
  const double products = static_cast<double>(tiles_of(s, edge) * points_of(edge));
  return mac_ns(DType::kFloat32, products * static_cast<double>(s.c * s.o)) +
         products * 0.4 * static_cast<double>(s.c + s.o);
}

// Chooses the blocks of a pass.
Work split(WinogradArgs& args) {
  const int64_t tiles = tiles_of(args.s, args.edge), panels = ceil_div(args.s.o, kPanel);
  const int64_t tile_bytes = points_of(args.edge) * (args.s.c + kPanel) * static_cast<int64_t>(sizeof(float));
  const double total = pass_ns(args.s, args.edge);
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
  const int64_t tiles = tiles_of(s, args.edge);
  args.rows = ceil_div(s.c, ceil_div(s.c, kGradRows));
  const int64_t tile_bytes = points_of(args.edge) * (args.rows + s.o) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::clamp(kGradBlockBytes / tile_bytes, kLeastGradTiles, kGradBlockTiles);
  args.block = ceil_div(tiles, ceil_div(tiles, most));
  const int64_t parts = ceil_div(s.c, args.rows), blocks = ceil_div(tiles, args.block);
  args.splits = std::max<int64_t>(1, std::min(ceil_div(kBusyItems, parts), blocks / 2));
  const int64_t items = parts * args.splits;
  return {items, pass_ns(s, args.edge) / static_cast<double>(items), conv_flops(s)};
}

// Whether along an axis every result reads a pixel and every pixel is read: rounding of their tile would reach the
// others, which are exactly 0.
bool is_tight(int64_t in, int64_t out, int64_t pad) {
  const int64_t end = out + 2 - in - pad;
  return std::min(pad, end) >= 0 && std::max(pad, end) <= 2;
}

bool is_suited(const ConvShape& s, DType dtype, Device device) {
  return s.kh == 3 && s.kw == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 && s.dilation_w == 1 &&
         s.groups == 1 && is_tight(s.h, s.oh, s.pad_h) && is_tight(s.w, s.ow, s.pad_w) && dtype == DType::kFloat32 &&
         std::min(s.c, s.o) >= kLeastChannels && has_kernel(&KernelTable::winograd_f32, device);
}

}  // namespace

int64_t winograd_edge(const ConvShape& s, DType dtype, bool adjoint, Device device) {
  if (!is_suited(s, dtype, device)) return 0;
  const int64_t pixels = adjoint ? s.h * s.w : s.oh * s.ow, pairs = s.c * s.o;
  if (pixels < kLeastPixels || pairs > kMostPairsPerPixel * pixels) return 0;
  return pairs <= kMostPairsOfFour ? 4 : 2;
}

void launch_winograd(const char* op, const ConvShape& s, int64_t edge, bool adjoint, const Tensor& source,
                     const Tensor& weight, const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre) {
  WinogradArgs args;
  args.s = adjoint ? as_forward(s) : s;
  args.edge = edge;
  args.activation = epilogue.activation;
  const Work work = split(args);
  launch(op, &KernelTable::winograd_f32, args, work,
         {read(&WinogradArgs::x, source), read(&WinogradArgs::u, pack(weight, args.s, edge, adjoint)),
          read<WinogradArgs>(&WinogradArgs::bias, epilogue.bias),
          read<WinogradArgs>(&WinogradArgs::residual, epilogue.residual), write<WinogradArgs>(&WinogradArgs::pre, pre),
          write(&WinogradArgs::y, y)});
}

// Many weights take the edge that costs less, also where a forward pass does not pay: dU is written and read once,
// which takes as long as the products of kSumTiles tiles; transforms take a third as long as their products. (16 images
// of 7 x 7, 512 to 512 channels, in 0.75 of the time of the sum over taps, 32 of 8 x 8, 256 to 256, in 0.75 of edge
// 2's.)
int64_t winograd_grad_weight_edge(const ConvShape& s, DType dtype, Device device) {
  int64_t edge = winograd_edge(s, dtype, false, device);
  if (edge != 4 && is_suited(s, dtype, device)) {
    constexpr int64_t kSumTiles = 100;
    const auto cost = [&](int64_t e) { return points_of(e) * (tiles_of(s, e) * 4 / 3 + kSumTiles); };
    const int64_t best = cost(2) < cost(4) ? 2 : 4;
    if (edge || cost(best) <= 10 * s.n * s.oh * s.ow) edge = best;
  }
  return edge && tiles_of(s, edge) >= kLeastGradTiles ? edge : 0;
}

void launch_winograd_grad_weight(const ConvShape& s, int64_t edge, const Tensor& x, const Tensor& g, const Tensor& dw) {
  const char* op = "conv2d_grad_weight";
  WinogradGradWeightArgs args;
  args.s = s;
  args.edge = edge;
  const Work work = split(args);
  const Shape shape{args.splits, points_of(edge), s.c, packed_columns(DType::kFloat32, s.o)};
  const Tensor du = Tensor::empty(DType::kFloat32, shape, x.device());
  launch(op, &KernelTable::winograd_grad_weight_f32, args, work,
         {read(&WinogradGradWeightArgs::x, x), read(&WinogradGradWeightArgs::g, g),
          write(&WinogradGradWeightArgs::du, du)});
  WinogradSumArgs sum;
  sum.c = s.c, sum.o = s.o;
  sum.edge = edge, sum.splits = args.splits;
  constexpr int64_t kOutputs = kPackWidth<float>;
  const double values = static_cast<double>(kOutputs * s.c * points_of(edge) * args.splits);
  launch(op, &KernelTable::winograd_sum_f32, sum, {ceil_div(s.o, kOutputs), 0.2 * values},
         {read(&WinogradSumArgs::du, du), write(&WinogradSumArgs::dw, dw)});
}

}  // namespace quernel::ops
