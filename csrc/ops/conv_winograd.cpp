#include "ops/conv_winograd.h"

#include <algorithm>
#include <string>

#include "ops/matmul.h"
#include "runtime/derived.h"
#include "runtime/launch.h"

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
constexpr int64_t kBusyItems = 8;  // enough for any balance on few cores

constexpr int64_t kGradRows = 64;        // of dU in an item
constexpr int64_t kGradBlockTiles = 96;  // so many that dU, which is added to each time, costs little
constexpr int64_t kLeastGradTiles = 24;
constexpr int64_t kGradBlockBytes = 4 << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A correlation of stride 1: a forward pass, or an adjoint seen as one.
WinogradArgs arguments(const ConvShape& s, int64_t edge, bool adjoint) {
  WinogradArgs args;
  args.n = s.n;
  args.edge = edge;
  if (adjoint) {
    args.h = s.oh, args.w = s.ow, args.c = s.o;
    args.oh = s.h, args.ow = s.w, args.o = s.c;
    args.pad_h = s.kh - 1 - s.pad_h, args.pad_w = s.kw - 1 - s.pad_w;
  } else {
    args.h = s.h, args.w = s.w, args.c = s.c;
    args.oh = s.oh, args.ow = s.ow, args.o = s.o;
    args.pad_h = s.pad_h, args.pad_w = s.pad_w;
  }
  return args;
}

int64_t tiles_of(const WinogradArgs& a) { return ceil_div(a.oh, a.edge) * ceil_div(a.ow, a.edge); }
int64_t points_of(const WinogradArgs& a) { return (a.edge + 2) * (a.edge + 2); }

Tensor pack(const Tensor& weight, const WinogradArgs& args, bool adjoint) {
  const std::string kind = (adjoint ? "winograd_adjoint/" : "winograd/") + std::to_string(args.edge);
  return derived(weight, kind.c_str(), [&] {
    constexpr int64_t kTaps = 9;
    WinogradPackArgs pack;
    pack.c = args.c, pack.o = args.o;
    pack.edge = args.edge;
    if (adjoint) {  // both kernel axes reversed
      pack.src_row = kTaps * args.o;
      pack.src_col = 1;
      pack.src_tap = -args.o;
      pack.src_offset = (kTaps - 1) * args.o;
    } else {
      pack.src_row = 1;
      pack.src_col = kTaps * args.c;
      pack.src_tap = args.c;
    }
    const Tensor packed =
        Tensor::empty(DType::kFloat32, {points_of(args), args.c, packed_columns(DType::kFloat32, args.o)});
    launch("winograd_pack", &KernelTable::winograd_pack_f32, pack,
           {ceil_div(args.o, kPanel), static_cast<double>(args.c * kPanel * points_of(args))},
           {read(&WinogradPackArgs::src, weight), write(&WinogradPackArgs::dst, packed)});
    return packed;
  });
}

double pass_ns(const WinogradArgs& a) {
  const double products = static_cast<double>(a.n * tiles_of(a) * points_of(a));
  return mac_ns(DType::kFloat32, products * static_cast<double>(a.c * a.o)) +
         products * 0.4 * static_cast<double>(a.c + a.o);
}

double flops(const WinogradArgs& a) {
  return 2.0 * static_cast<double>(a.n * a.oh * a.ow * a.o) * static_cast<double>(9 * a.c);
}

// Chooses the blocks of a pass.
Work split(WinogradArgs& args) {
  const int64_t tiles = args.n * tiles_of(args), panels = ceil_div(args.o, kPanel);
  const int64_t tile_bytes = points_of(args) * (args.c + kPanel) * static_cast<int64_t>(sizeof(float));
  const double total = pass_ns(args);
  args.panels = panels;
  for (int64_t block = std::clamp(kBlockBytes / tile_bytes, kLeastBlockTiles, kBlockTiles);;) {
    args.block = ceil_div(tiles, ceil_div(tiles, block));
    const int64_t items = ceil_div(tiles, args.block) * ceil_div(panels, args.panels);
    const double item_ns = total / static_cast<double>(items);
    const bool shortest = args.panels == 1 && block <= kLeastBlockTiles;
    if (shortest || items >= kBusyItems || item_ns <= kShortItemNs) return {items, item_ns, flops(args)};
    if (args.panels > 1)
      args.panels = ceil_div(args.panels, 2);
    else
      block = std::max(block / 2, kLeastBlockTiles);
  }
}

// Chooses blocks and splits of a gradient of the weights.
Work split(WinogradGradWeightArgs& args, const WinogradArgs& pass) {
  const int64_t tiles = args.n * tiles_of(pass);
  args.rows = ceil_div(args.c, ceil_div(args.c, kGradRows));
  const int64_t tile_bytes = points_of(pass) * (args.rows + args.o) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::clamp(kGradBlockBytes / tile_bytes, kLeastGradTiles, kGradBlockTiles);
  args.block = ceil_div(tiles, ceil_div(tiles, most));
  const int64_t parts = ceil_div(args.c, args.rows), blocks = ceil_div(tiles, args.block);
  args.splits = std::max<int64_t>(1, std::min(ceil_div(kBusyItems, parts), blocks / 2));
  const int64_t items = parts * args.splits;
  return {items, pass_ns(pass) / static_cast<double>(items), flops(pass)};
}

}  // namespace

int64_t winograd_edge(const ConvShape& s, DType dtype, bool adjoint) {
  const bool plain = s.kh == 3 && s.kw == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
                     s.dilation_w == 1 && s.groups == 1;
  if (!plain || dtype != DType::kFloat32 || std::min(s.c, s.o) < kLeastChannels) return 0;
  const int64_t pixels = adjoint ? s.h * s.w : s.oh * s.ow, pairs = s.c * s.o;
  if (pixels < kLeastPixels || pairs > kMostPairsPerPixel * pixels) return 0;
  return pairs <= kMostPairsOfFour ? 4 : 2;
}

void launch_winograd(const char* op, const ConvShape& s, int64_t edge, bool adjoint, const Tensor& source,
                     const Tensor& weight, const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre) {
  WinogradArgs args = arguments(s, edge, adjoint);
  args.activation = epilogue.activation;
  const Work work = split(args);
  launch(op, &KernelTable::winograd_f32, args, work,
         {read(&WinogradArgs::x, source), read(&WinogradArgs::u, pack(weight, args, adjoint)),
          read<WinogradArgs>(&WinogradArgs::bias, epilogue.bias),
          read<WinogradArgs>(&WinogradArgs::residual, epilogue.residual), write<WinogradArgs>(&WinogradArgs::pre, pre),
          write(&WinogradArgs::y, y)});
}

int64_t winograd_grad_weight_edge(const ConvShape& s, DType dtype) {
  const int64_t edge = winograd_edge(s, dtype, false);
  return edge && s.n * ceil_div(s.oh, edge) * ceil_div(s.ow, edge) >= kLeastGradTiles ? edge : 0;
}

void launch_winograd_grad_weight(const ConvShape& s, int64_t edge, const Tensor& x, const Tensor& g, const Tensor& dw) {
  const char* op = "conv2d_grad_weight";
  const WinogradArgs pass = arguments(s, edge, false);
  WinogradGradWeightArgs args;
  args.n = s.n, args.h = s.h, args.w = s.w, args.c = s.c;
  args.oh = s.oh, args.ow = s.ow, args.o = s.o;
  args.pad_h = s.pad_h, args.pad_w = s.pad_w;
  args.edge = edge;
  const Work work = split(args, pass);
  const Shape shape{args.splits, points_of(pass), s.c, packed_columns(DType::kFloat32, s.o)};
  const Tensor du = Tensor::empty(DType::kFloat32, shape);
  launch(op, &KernelTable::winograd_grad_weight_f32, args, work,
         {read(&WinogradGradWeightArgs::x, x), read(&WinogradGradWeightArgs::g, g),
          write(&WinogradGradWeightArgs::du, du)});
  WinogradSumArgs sum;
  sum.c = s.c, sum.o = s.o;
  sum.edge = edge, sum.splits = args.splits;
  constexpr int64_t kOutputs = kPackWidth<float>;
  const double values = static_cast<double>(kOutputs * s.c * points_of(pass) * args.splits);
  launch(op, &KernelTable::winograd_sum_f32, sum, {ceil_div(s.o, kOutputs), 0.2 * values},
         {read(&WinogradSumArgs::du, du), write(&WinogradSumArgs::dw, dw)});
}

}  // namespace quernel::ops
