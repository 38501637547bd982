#include "ops/conv.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "ops/common.h"
#include "ops/conv_bf16.h"
#include "ops/conv_grad_weight.h"
#include "ops/conv_shape.h"
#include "ops/conv_winograd.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "runtime/derived.h"

namespace quernel::ops {
namespace {

constexpr int64_t kBlockPixels = 800;  // so many that their weights' way into L1 and their border cost little
constexpr int64_t kFewPixels = 96;     // fewer only to keep all threads busy
constexpr double kItemNs = 150e3;
constexpr int64_t kProductBytes = 1 << 20;      // of dW, from which on a pointwise one is a matrix product,
constexpr int64_t kProductBytesWide = 2 << 20;  // with wide registers,
constexpr int64_t kProductPixels = 4096;        // up to so many pixels

// ---- checks -----------------------------------------------------------------------------------------------------

int64_t output_size(const char* op, int axis, int64_t size, int64_t kernel, const ConvParams& p) {
  const char* side = axis == 0 ? "height" : "width";
  const auto d = static_cast<size_t>(axis);
  constexpr int64_t kMost = int64_t{1} << 31;  // keeps products of sizes below overflow
  check<ArgumentError>(p.stride[d] >= 1 && p.stride[d] < kMost, op, "stride must be positive, got (", p.stride[0], ", ",
                       p.stride[1], ")");
  check<ArgumentError>(p.dilation[d] >= 1 && p.dilation[d] < kMost, op, "dilation must be positive, got (",
                       p.dilation[0], ", ", p.dilation[1], ")");
  check<ArgumentError>(p.padding[d] >= 0 && p.padding[d] < kMost, op, "padding must not be negative, got (",
                       p.padding[0], ", ", p.padding[1], ")");
  const int64_t end = p.padding_end ? (*p.padding_end)[d] : p.padding[d];
  check<ArgumentError>(end > -kMost && end < kMost, op, "padding behind the image is too large: ", end);
  check<ShapeError>(kernel >= 1 && kernel < kMost, op, "kernel ", side, " must be positive, got ", kernel);
  const int64_t reach = p.dilation[d] * (kernel - 1) + 1, padded = size + p.padding[d] + end;
  check<ShapeError>(reach <= padded, op, "kernel reaches over ", reach, " pixels of ", side, ", the padded input has ",
                    padded, " (input ", size, ", padding ", p.padding[d], ", dilation ", p.dilation[d],
                    "); pad more or use a smaller kernel");
  return (padded - reach) / p.stride[d] + 1;
}

ConvShape conv_shape(const char* op, const Shape& x, const Shape& weight, const ConvParams& p) {
  check<ShapeError>(x.rank() == 4, op, "x must be (N, H, W, C), got ", x);
  check<ShapeError>(weight.rank() == 4, op, "weight must be (O, KH, KW, C/groups), got ", weight);
  check<ArgumentError>(p.groups >= 1, op, "groups must be at least 1, got ", p.groups);
  check<ShapeError>(x[3] % p.groups == 0 && weight[3] == x[3] / p.groups, op, "weight expects ", weight[3],
                    p.groups > 1 ? " input channels per group" : " input channels", ", x has ", x[3], " (x: ", x,
                    ", NHWC; weight: ", weight, ", groups: ", p.groups, ")");
  check<ShapeError>(weight[0] % p.groups == 0, op, "weight has ", weight[0], " output channels, not a multiple of ",
                    p.groups, " groups (weight: ", weight, ")");
  ConvShape s{};
  s.n = x[0], s.h = x[1], s.w = x[2], s.c = x[3];
  s.o = weight[0], s.kh = weight[1], s.kw = weight[2];
  s.oh = output_size(op, 0, s.h, s.kh, p), s.ow = output_size(op, 1, s.w, s.kw, p);
  s.stride_h = p.stride[0], s.stride_w = p.stride[1];
  s.pad_h = p.padding[0], s.pad_w = p.padding[1];
  s.dilation_h = p.dilation[0], s.dilation_w = p.dilation[1];
  s.groups = p.groups;
  return s;
}

void check_operands(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b,
                    const ConvParams& params) {
  check_floating(op, a_name, a, b_name, b);
  check<DTypeError>(!params.bf16 || a.dtype() == DType::kFloat32, op, a_name, " must be float32 for a product in ",
                    "bfloat16, is ", name(a.dtype()), "; cast it");
}

void check_gradient(const char* op, const Shape& g, const ConvShape& s) {
  const Shape y{s.n, s.oh, s.ow, s.o};
  check<ShapeError>(g == y, op, "g has shape ", g, ", the output of this convolution has ", y);
}

// ---- weights in panels ------------------------------------------------------------------------------------------

void launch_pack(const Tensor& weight, const Tensor& packed, const PackArgs& args) {
  if (packed.size() == 0) return;
  const int64_t items = args.batch * args.taps * ceil_div(args.n, kPanel);
  launch("pack", weight.dtype() == DType::kFloat32 ? &KernelTable::pack_f32 : &KernelTable::pack_f64, args,
         {items, 0.3 * static_cast<double>(args.k * kPanel)},
         {read(&PackArgs::src, weight), write(&PackArgs::dst, packed)});
}

// Per group B[KH·KW·C/g, O/g]; depthwise B[KH·KW, C].
Tensor pack_forward(const Tensor& weight, const ConvShape& s) {
  const int64_t taps = s.kh * s.kw;
  if (is_depthwise(s)) return pack_matrix(weight, 1, taps, s.c, true);
  return pack_matrix(weight, s.groups, taps * (s.c / s.groups), s.o / s.groups, true);
}

// Per group B[KH·KW·O/g, C/g], both kernel axes reversed; depthwise B[KH·KW, C].
Tensor pack_adjoint(const Tensor& weight, const ConvShape& s) {
  const std::string kind = "conv_adjoint/" + std::to_string(s.groups);
  return derived(weight, kind.c_str(), [&] {
    const int64_t taps = s.kh * s.kw, c = s.c / s.groups, o = s.o / s.groups;
    PackArgs args;
    if (is_depthwise(s)) {
      args.k = taps;
      args.n = s.c;
      args.src_row = -1;
      args.src_col = taps;
      args.src_offset = taps - 1;
    } else {
      args.k = o;
      args.n = c;
      args.src_row = taps * c;
      args.src_col = 1;
      args.batch = s.groups;
      args.src_batch = o * taps * c;
      args.taps = taps;
      args.src_tap = -c;
      args.src_offset = (taps - 1) * c;
    }
    args.dst_batch = packed_columns(weight.dtype(), args.n) * args.taps * args.k;
    const Tensor packed = Tensor::empty(weight.dtype(), {args.batch, args.dst_batch}, weight.device());
    launch_pack(weight, packed, args);
    return packed;
  });
}

// ---- work -------------------------------------------------------------------------------------------------------

double pass_ns(const ConvShape& s, DType dtype, bool adjoint) {
  const double pixels = static_cast<double>(s.n * (adjoint ? s.h * s.w : s.oh * s.ow));
  const double macs = static_cast<double>(s.n * s.oh * s.ow) * static_cast<double>(s.kh * s.kw * s.o) *
                      static_cast<double>(s.c / s.groups);
  return mac_ns(dtype, macs) + 10 * pixels * static_cast<double>(s.groups);
}

// Chooses the blocks of a pass.
Work split(ConvArgs& args, DType dtype, bool adjoint) {
  const ConvShape& s = args.s;
  if (is_depthwise(s)) {
    const double macs = static_cast<double>(s.n * s.oh * s.ow * s.c) * static_cast<double>(s.kh * s.kw);
    const int64_t items = s.n * (adjoint ? s.h : s.oh);
    return {items, 40 + mac_ns(dtype, 1.5 * macs) / static_cast<double>(items), conv_flops(s)};
  }
  const int64_t panels = ceil_div((adjoint ? s.c : s.o) / s.groups, kPanel);
  const double total = pass_ns(s, dtype, adjoint);
  args.panels = panels;
  for (int64_t pixels = kBlockPixels;;) {
    args.block = choose_block(s, dtype, adjoint, pixels);
    const int64_t items = s.groups * ceil_div(panels, args.panels) * count_blocks(s, adjoint, args.block);
    const double item_ns = total / static_cast<double>(items);
    const bool shortest = args.panels == 1 && pixels / 2 < kLeastBlockPixels;
    const bool quick = item_ns <= kItemNs || (args.panels == 1 && pixels <= kFewPixels);
    const bool busy = items >= kBusyItems || item_ns <= kItemNs / 8;
    if (shortest || (quick && busy)) return {items, item_ns, conv_flops(s)};
    if (args.panels > 1)
      args.panels = ceil_div(args.panels, 2);
    else
      pixels /= 2;
  }
}

using Entry = Kernel<ConvArgs> KernelTable::*;

Entry entry_of(const ConvShape& s, DType dtype, bool adjoint) {
  const bool f32 = dtype == DType::kFloat32;
  if (is_depthwise(s)) {
    if (adjoint) return f32 ? &KernelTable::depthwise2d_grad_input_f32 : &KernelTable::depthwise2d_grad_input_f64;
    return f32 ? &KernelTable::depthwise2d_f32 : &KernelTable::depthwise2d_f64;
  }
  if (adjoint) return f32 ? &KernelTable::conv2d_grad_input_f32 : &KernelTable::conv2d_grad_input_f64;
  return f32 ? &KernelTable::conv2d_f32 : &KernelTable::conv2d_f64;
}

OutputAndPre launch_pass(const char* op, const ConvShape& s, bool bf16, bool adjoint, const Tensor& source,
                         const Tensor& weight, const EpilogueSpec& epilogue) {
  const Shape shape = adjoint ? Shape{s.n, s.h, s.w, s.c} : Shape{s.n, s.oh, s.ow, s.o};
  check_epilogue(op, epilogue, source.dtype(), shape);
  const Tensor y = Tensor::empty(source.dtype(), shape, source.device());
  const Tensor pre = epilogue.save_pre ? Tensor::empty(source.dtype(), shape, source.device()) : Tensor();
  if (y.size() == 0) return {y, pre};
  if (bf16 && s.groups == 1) {
    launch_bf16(op, s, adjoint, source, weight, epilogue, y, pre);
    return {y, pre};
  }
  const WinogradTiles tiles = winograd_tiles(s, source.dtype(), adjoint, source.device());
  if (tiles != WinogradTiles::kNone) {
    launch_winograd(op, s, tiles, adjoint, source, weight, epilogue, y, pre);
    return {y, pre};
  }
  ConvArgs args;
  args.s = s;
  args.activation = epilogue.activation;
  const Work work = split(args, source.dtype(), adjoint);
  launch(op, entry_of(s, source.dtype(), adjoint), args, work,
         {read(&ConvArgs::x, source), read(&ConvArgs::w, adjoint ? pack_adjoint(weight, s) : pack_forward(weight, s)),
          read<ConvArgs>(&ConvArgs::bias, epilogue.bias), read<ConvArgs>(&ConvArgs::residual, epilogue.residual),
          write<ConvArgs>(&ConvArgs::pre, pre), write(&ConvArgs::y, y)});
  return {y, pre};
}

// Whether the gradient of the weights is a plain product: that of a 1x1 convolution, where dW is larger than L2 and not
// many pixels copy x once for all of it. (At 784 pixels, 512 to 2048 channels, in 0.9 of the time on AVX-512; 256 to
// 1024 took 1.15 of it there, on AVX2 0.85.)
bool is_product(const ConvShape& s, const Tensor& x) {
  return is_pointwise(s) && x.device() == Device::kCpu && s.n * s.oh * s.ow <= kProductPixels &&
         s.o * s.c * static_cast<int64_t>(itemsize(x.dtype())) >= (is_wide() ? kProductBytesWide : kProductBytes);
}

// ---- several outputs per channel --------------------------------------------------------------------------------

// With one input channel per group and a few outputs (a "channel multiplier"), repeating each channel makes the
// convolution depthwise. That costs a copy of x, and a sum in the gradient; as groups of one channel each
// group would be a pass of its own.
int64_t multiplier(const ConvShape& s) {
  constexpr int64_t kMost = 32;
  const bool several = s.groups > 1 && s.groups == s.c && s.o > s.c && s.o <= kMost * s.c;
  return several ? s.o / s.c : 1;
}

ConvShape repeated(ConvShape s) {
  s.c = s.groups = s.o;
  return s;
}

Tensor repeat_channels(const Tensor& x, int64_t times) {
  const Shape& s = x.shape();
  return broadcast_to(x.reshape({s[0], s[1], s[2], s[3], 1}), {s[0], s[1], s[2], s[3], times})
      .reshape({s[0], s[1], s[2], s[3] * times});
}

}  // namespace

OutputAndPre conv2d(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue, const ConvParams& params) {
  check_operands("conv2d", "x", x, "weight", weight, params);
  const ConvShape s = conv_shape("conv2d", x.shape(), weight.shape(), params);
  if (const int64_t times = multiplier(s); times > 1)
    return launch_pass("conv2d", repeated(s), false, false, repeat_channels(x, times), weight, epilogue);
  return launch_pass("conv2d", s, params.bf16, false, x, weight, epilogue);
}

OutputAndPre conv_transpose2d(const Tensor& x, const Tensor& weight, const Shape& y_shape, const EpilogueSpec& epilogue,
                              const ConvParams& params) {
  check_operands("conv_transpose2d", "x", x, "weight", weight, params);
  const ConvShape s = conv_shape("conv_transpose2d", y_shape, weight.shape(), params);
  const Shape expected{s.n, s.oh, s.ow, s.o};
  check<ShapeError>(x.shape() == expected, "conv_transpose2d", "x has shape ", x.shape(), ", an output of shape ",
                    y_shape, " comes from ", expected);
  return launch_pass("conv_transpose2d", s, params.bf16, true, x, weight, epilogue);
}

Tensor conv2d_grad_input(const Tensor& g, const Tensor& weight, const Shape& x_shape, const ConvParams& params) {
  check_operands("conv2d_grad_input", "g", g, "weight", weight, params);
  const ConvShape s = conv_shape("conv2d_grad_input", x_shape, weight.shape(), params);
  check_gradient("conv2d_grad_input", g.shape(), s);
  const int64_t times = multiplier(s);
  if (times == 1) return launch_pass("conv2d_grad_input", s, params.bf16, true, g, weight, {}).first;
  const Tensor dx = launch_pass("conv2d_grad_input", repeated(s), false, true, g, weight, {}).first;
  return sum(dx.reshape({s.n, s.h, s.w, s.c, times}), {4});
}

Tensor conv2d_grad_weight(const Tensor& x, const Tensor& g, const Shape& weight_shape, const ConvParams& params) {
  check_operands("conv2d_grad_weight", "x", x, "g", g, params);
  ConvShape s = conv_shape("conv2d_grad_weight", x.shape(), weight_shape, params);
  check_gradient("conv2d_grad_weight", g.shape(), s);
  const int64_t times = multiplier(s);
  const Tensor source = times > 1 && x.size() > 0 ? repeat_channels(x, times) : x;
  if (times > 1) s = repeated(s);
  if (params.bf16 && s.groups == 1 && weight_shape.volume() > 0) return grad_weight_bf16(s, x, g).reshape(weight_shape);
  if (is_product(s, x)) {
    const int64_t pixels = s.n * s.oh * s.ow;
    return matmul(g.reshape({pixels, s.o}), source.reshape({pixels, s.c}), true, false).reshape(weight_shape);
  }
  const Tensor dw = Tensor::empty(x.dtype(), weight_shape, x.device());
  if (dw.size() == 0) return dw;
  const WinogradTiles tiles = winograd_grad_weight_tiles(s, x.dtype(), x.device());
  if (tiles != WinogradTiles::kNone) {
    launch_winograd_grad_weight(s, tiles, source, g, dw);
    return dw;
  }
  return grad_weight(s, source, g, dw);
}

}  // namespace quernel::ops
