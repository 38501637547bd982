#include "ops/conv_bf16.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "ops/bf16.h"
#include "ops/common.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"
#include "runtime/derived.h"

namespace quernel::ops {
namespace {

constexpr int64_t kMostStrips = 8;          // of an item: enough for the passage of the weights to cost little …
constexpr int64_t kPatchBytes = 512 << 10;  // … while their patches stay in L2
constexpr int64_t kMostPanels = 4;          // of an item: each passage of the gradients serves all of them

double macs_of(const ConvShape& s) {
  return static_cast<double>(s.n * s.oh * s.ow * s.o) * static_cast<double>(s.kh * s.kw * s.c);
}

void launch_forward(const char* op, Bf16ConvArgs args, const Tensor& x, const Tensor& columns,
                    const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre) {
  const ConvShape& s = args.s;
  const Tensor no_taps;  // of which nothing was written
  args.activation = epilogue.activation;
  const int64_t strips = ceil_div(s.n * s.oh * s.ow, kBf16Strip), depth = s.kh * s.kw * s.c;
  const int64_t strip_bytes = kBf16Strip * (depth + kBf16Block) * static_cast<int64_t>(sizeof(uint16_t));
  args.strips = std::clamp<int64_t>(std::min(kPatchBytes / strip_bytes, strips / kBusyItems), 1, kMostStrips);
  const int64_t items = ceil_div(strips, args.strips);
  const double ns = bf16_mac_ns(macs_of(s)) + 2 * static_cast<double>(s.n * s.oh * s.ow);
  launch(op, &KernelTable::conv2d_bf16, args,
         {items, ns / static_cast<double>(std::max<int64_t>(items, 1)), 2 * macs_of(s)},
         {read(&Bf16ConvArgs::x, x), read(&Bf16ConvArgs::w, columns.size() > 0 ? columns : no_taps),
          read<Bf16ConvArgs>(&Bf16ConvArgs::bias, epilogue.bias),
          read<Bf16ConvArgs>(&Bf16ConvArgs::residual, epilogue.residual), update<Bf16ConvArgs>(&Bf16ConvArgs::pre, pre),
          update(&Bf16ConvArgs::y, y)});
}

// What one phase of an adjoint, its pixels congruent to `phase` modulo the stride, sees of the kernel along an axis:
// positions first, first - step, … (count of them), which read source pixels begin, begin + dilation, ….
struct PhaseAxis {
  int64_t first = 0, step = 1, count = 0;
  int64_t begin = 0, dilation = 1;
  int64_t size;  // pixels
};

PhaseAxis phase_axis(int64_t phase, int64_t in, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t common = std::gcd(stride, dilation);
  PhaseAxis a;
  a.size = ceil_div(std::max<int64_t>(in - phase, 0), stride);
  a.step = stride / common;
  a.dilation = dilation / common;
  const auto reads = [&](int64_t k) { return (phase + pad - k * dilation) % stride == 0; };
  for (a.first = kernel - 1; a.first >= 0 && !reads(a.first);) --a.first;
  if (a.first < 0) return a;
  a.count = a.first / a.step + 1;
  a.begin = (phase + pad - a.first * dilation) / stride;
  return a;
}

// The weights (O, KH, KW, C) that a phase sees, as columns [C] with k = (kh, kw, o).
Tensor phase_columns(const Tensor& weight, const ConvShape& s, const PhaseAxis& v, const PhaseAxis& h) {
  std::string kind = "bf16_adjoint";
  for (int64_t part : {v.first, v.step, h.first, h.step}) kind.append("/").append(std::to_string(part));
  return derived(weight, kind.c_str(), [&] {
    const Tensor seen = slice(weight, {{0, std::max<int64_t>(v.first, 0), std::max<int64_t>(h.first, 0), 0},
                                       {1, -v.step, -h.step, 1},
                                       {s.o, v.count, h.count, s.c}});
    return pack_bf16({transpose(seen, {3, 1, 2, 0}), s.c, v.count * h.count * s.o, true}, true);
  });
}

void launch_adjoint(const char* op, const ConvShape& s, const Tensor& g, const Tensor& weight,
                    const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre) {
  for (int64_t i = 0; i < std::min(s.stride_h, s.h); ++i) {
    const PhaseAxis v = phase_axis(i, s.h, s.kh, s.stride_h, s.pad_h, s.dilation_h);
    for (int64_t j = 0; j < std::min(s.stride_w, s.w); ++j) {
      const PhaseAxis h = phase_axis(j, s.w, s.kw, s.stride_w, s.pad_w, s.dilation_w);
      Bf16ConvArgs args;
      args.s = {s.n,     s.oh, s.ow, s.o,      v.size,   h.size,     s.c,        v.count,
                h.count, 1,    1,    -v.begin, -h.begin, v.dilation, h.dilation, 1};
      args.first_h = i, args.first_w = j;
      args.step_h = s.stride_h, args.step_w = s.stride_w;
      args.y_h = s.h, args.y_w = s.w;
      launch_forward(op, args, g, phase_columns(weight, s, v, h), epilogue, y, pre);
    }
  }
}

}  // namespace

void launch_bf16(const char* op, const ConvShape& s, bool adjoint, const Tensor& source, const Tensor& weight,
                 const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre) {
  const Tensor x = cast(source, DType::kBFloat16);
  if (adjoint) return launch_adjoint(op, s, x, weight, epilogue, y, pre);
  Bf16ConvArgs args;
  args.s = s;
  args.y_h = s.oh, args.y_w = s.ow;
  launch_forward(op, args, x, bf16_columns({weight, s.o, s.kh * s.kw * s.c, true}), epilogue, y, pre);
}

Tensor grad_weight_bf16(const ConvShape& s, const Tensor& x, const Tensor& g) {
  const char* op = "conv2d_grad_weight";
  const int64_t pixels = s.n * s.oh * s.ow, depth = s.kh * s.kw * s.c;
  const Tensor source = cast(x, DType::kBFloat16), rows = pack_bf16({g, s.o, pixels, false}, false);
  Bf16ConvGradWeightArgs args;
  args.s = s;
  const int64_t panels = ceil_div(depth, kBf16Columns), blocks = ceil_div(pixels, kBf16GradPixels);
  args.panels = std::clamp<int64_t>(panels / kBusyItems, 1, kMostPanels);
  const int64_t parts = ceil_div(panels, args.panels);
  args.splits = std::max<int64_t>(1, std::min(ceil_div(kBusyItems, parts), blocks));
  const Tensor dw = Tensor::empty(DType::kFloat32, {args.splits, s.o, depth}, x.device());
  const int64_t items = parts * args.splits;
  launch(op, &KernelTable::conv2d_grad_weight_bf16, args,
         {items, (bf16_mac_ns(macs_of(s)) + 0.1 * static_cast<double>(pixels * depth)) / static_cast<double>(items),
          2 * macs_of(s)},
         {read(&Bf16ConvGradWeightArgs::x, source), read(&Bf16ConvGradWeightArgs::g, rows),
          write(&Bf16ConvGradWeightArgs::dw, dw)});
  return args.splits > 1 ? sum_middle(op, dw, 1, args.splits, s.o * depth) : dw;
}

}  // namespace quernel::ops
