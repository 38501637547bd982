#include "ops/conv_grad_weight.h"

#include <algorithm>

#include "ops/conv_shape.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr int64_t kGradBlockPixels = 256;   // so many that dW, which is added to each time, costs little,
constexpr int64_t kFarPixels = 128;         // fewer of pixels in place if those
constexpr int64_t kFarBytes = 4096;         // of both sides are longer: a block and the next one stay in L2
constexpr int64_t kLeastSplitPixels = 512;  // fewer would not be worth a result of its own
constexpr int64_t kLeastGradRows = 192;     // of dW in an item, which copies its pixels for them
constexpr double kLongestSplitNs = 2e6;     // Ctrl-C and balance wait for the end of an item
constexpr double kMostSplits = 256;
constexpr int64_t kSplitBytes = 512 << 10;
constexpr int64_t kMostSumBytes = 2 << 20;  // of all splits of a large dW, which are written and read for nothing

// Whether the images are taken as one row of pixels.
bool is_one_row(const ConvShape& s, Device device) { return is_pointwise(s) && device == Device::kCpu; }

ConvShape as_row(ConvShape s) {
  s.w = s.ow = s.n * s.h * s.w;
  s.n = s.h = s.oh = 1;
  return s;
}

// Chooses the splits of a gradient of the weights, and for dense ones the blocks.
Work split(ConvGradWeightArgs& args, const Tensor& x, const Tensor& g) {
  const ConvShape& s = args.s;
  const int64_t pixels = s.n * s.oh * s.ow, rows = s.kh * s.kw * (s.c / s.groups);
  const double total = mac_ns(x.dtype(), static_cast<double>(pixels) * static_cast<double>(s.o * rows + 32 * rows));
  const auto wanted = std::max(kBusyItems, static_cast<int64_t>(std::min(total / kLongestSplitNs, kMostSplits)));
  const int64_t most = std::max<int64_t>(1, pixels / kLeastSplitPixels);
  if (is_depthwise(s)) {
    args.splits = std::min(std::max(wanted, static_cast<int64_t>(x.nbytes() + g.nbytes()) / kSplitBytes), most);
    args.splits = std::min(args.splits, static_cast<int64_t>(kMostSplits));
    return {args.splits, total / static_cast<double>(args.splits), conv_flops(s)};
  }
  const bool pointwise = is_one_row(s, x.device());
  const bool wide = pointwise && is_wide();
  const bool far = wide && (s.c + s.o) * static_cast<int64_t>(itemsize(x.dtype())) > kFarBytes;
  args.block = pointwise ? ConvBlock{1, 1, even_part(pixels, far ? kFarPixels : kGradBlockPixels)}
                         : choose_block(s, x.dtype(), false, kGradBlockPixels);
  // An item copies its pixels for its rows of dW: they should be so many that this costs little.
  const int64_t least_rows = kLeastGradRows * (1 + s.c / s.o);
  args.rows = even_part(rows, std::max(least_rows, ceil_div(rows, wanted)));
  args.turned = s.c / s.groups % kPanel != 0 || (pointwise && s.o > s.c);
  if (!args.turned) args.rows = ceil_div(args.rows, kPanel) * kPanel;
  const int64_t parts = s.groups * ceil_div(rows, args.rows);
  args.splits = std::max<int64_t>(1, std::min({ceil_div(wanted, parts), most, count_blocks(s, false, args.block)}));
  if (wide) {
    const int64_t dw_bytes = s.o * rows * static_cast<int64_t>(itemsize(x.dtype()));
    args.splits = std::min(args.splits, std::max<int64_t>(1, kMostSumBytes / dw_bytes));
  }
  return {parts * args.splits, total / static_cast<double>(parts * args.splits), conv_flops(s)};
}

// What is left to do with its splits.
SumSplitsArgs sum_of(const ConvGradWeightArgs& args, DType dtype) {
  const ConvShape& s = args.s;
  SumSplitsArgs sum;
  sum.splits = args.splits;
  sum.batch = is_depthwise(s) ? 1 : s.groups;
  sum.rows = s.kh * s.kw * (is_depthwise(s) ? 1 : s.c / s.groups);
  sum.cols = s.o / sum.batch;
  sum.pitch = is_depthwise(s) ? s.c : packed_columns(dtype, sum.cols);
  return sum;
}

}  // namespace

Tensor grad_weight(const ConvShape& s, const Tensor& x, const Tensor& g, const Tensor& dw) {
  ConvGradWeightArgs args;
  args.s = is_one_row(s, x.device()) ? as_row(s) : s;
  const Work work = split(args, x, g);
  const SumSplitsArgs sum = sum_of(args, x.dtype());
  const Tensor parts = args.turned ? Tensor::empty(x.dtype(), {sum.splits, sum.batch, sum.rows, sum.pitch}, x.device())
                       : args.splits > 1 ? Tensor::empty(x.dtype(), {sum.splits, dw.size()}, x.device())
                                         : dw;
  const bool f32 = x.dtype() == DType::kFloat32;
  const auto depthwise = f32 ? &KernelTable::depthwise2d_grad_weight_f32 : &KernelTable::depthwise2d_grad_weight_f64;
  const auto dense = f32 ? &KernelTable::conv2d_grad_weight_f32 : &KernelTable::conv2d_grad_weight_f64;
  launch("conv2d_grad_weight", is_depthwise(s) ? depthwise : dense, args, work,
         {read(&ConvGradWeightArgs::x, x), read(&ConvGradWeightArgs::g, g), write(&ConvGradWeightArgs::dw, parts)});
  if (!args.turned)
    return args.splits > 1 ? sum_middle("conv2d_grad_weight", parts, 1, args.splits, dw.size()).reshape(dw.shape())
                           : dw;
  const double panel_ns = 0.2 * static_cast<double>(std::min(sum.cols, kPanel) * sum.rows * (sum.splits + 1));
  launch("conv2d_grad_weight", f32 ? &KernelTable::sum_splits_f32 : &KernelTable::sum_splits_f64, sum,
         {sum.batch * ceil_div(sum.cols, kPanel), panel_ns},
         {read(&SumSplitsArgs::parts, parts), write(&SumSplitsArgs::sum, dw)});
  return dw;
}

}  // namespace quernel::ops
