#include "ops/quant.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "ops/common.h"
#include "ops/quant_winograd.h"
#include "runtime/derived.h"
#include "runtime/dispatch.h"
#include "runtime/launch.h"
#include "runtime/thread_pool.h"

namespace quernel::ops {
namespace {

void check_dtype(const char* op, const char* what, const Tensor& t, DType dtype) {
  check<DTypeError>(t.dtype() == dtype, op, what, " must be ", name(dtype), ", got ", name(t.dtype()),
                    " (activations are uint8, weights int8, biases int32, scales float32)");
}

void check_zero_point(const char* op, const char* what, int32_t zero_point) {
  check<ArgumentError>(zero_point >= 0 && zero_point <= 255, op, what, " must lie in 0..255, got ", zero_point);
}

void check_qparams(const char* op, const char* scale_name, float scale, const char* zero_point_name,
                   int32_t zero_point) {
  check<ArgumentError>(std::isfinite(scale) && scale > 0, op, scale_name, " must be positive and finite, got ", scale);
  check_zero_point(op, zero_point_name, zero_point);
}

void check_range(const char* op, int32_t lo, int32_t hi) {
  check<ArgumentError>(0 <= lo && lo <= hi && hi <= 255, op, "the output range needs 0 <= lo <= hi <= 255, got lo ", lo,
                       ", hi ", hi);
}

}  // namespace

void check_output(const char* op, const QOutput& out, int64_t channels, const Shape& weight) {
  check_dtype(op, "bias", out.bias, DType::kInt32);
  check_dtype(op, "scale", out.scale, DType::kFloat32);
  check<ShapeError>(out.bias.shape() == Shape{channels}, op, "bias must have one entry per output channel, (", channels,
                    ",), got ", out.bias.shape(), " (weight: ", weight, ")");
  check<ShapeError>(out.scale.shape() == Shape{channels}, op, "scale must have one entry per output channel, (",
                    channels, ",), got ", out.scale.shape(), " (weight: ", weight, ")");
  if (out.as_float) return;
  check_zero_point(op, "zero_point", out.zero_point);
  check_range(op, out.lo, out.hi);
}

namespace {

template <class Args>
void set_output(Args& args, const QOutput& out) {
  args.zero_point = out.zero_point;
  args.lo = out.lo;
  args.hi = out.hi;
  args.y_float = out.as_float;
}

// Weight (groups · N, runs · K) -> (groups, N/16, runs · K/4, 16, 4), each run padded to whole groups of four k.
Tensor pack_weight(const Tensor& weight, int64_t groups, int64_t n, int64_t k, int64_t runs = 1) {
  const std::string kind = "pack_s8/" + std::to_string(groups) + "/" + std::to_string(runs);
  return derived(weight, kind.c_str(), [&] {
    const int64_t panels = ceil_div(n, kQPanel), k4 = runs * ceil_div(k, 4);
    const Tensor packed = Tensor::empty(DType::kInt8, {groups, panels, k4, kQPanel, 4}, weight.device());
    PackArgs args;
    args.k = k;
    args.n = n;
    args.src_row = 1;
    args.src_col = runs * k;
    args.batch = groups;
    args.src_batch = n * runs * k;
    args.taps = runs;
    args.src_tap = k;
    args.dst_batch = panels * k4 * 4 * kQPanel;
    if (packed.size() > 0)
      launch("pack_s8", &KernelTable::pack_s8, args, {groups * panels, 0.5 * static_cast<double>(k4 * 4 * kQPanel)},
             {read(&PackArgs::src, weight), write(&PackArgs::dst, packed)});
    return packed;
  });
}

// Weight (C, taps) as the level wants it: int16 (C/16, pairs of taps, 16, 2) or int8 (C/64, fours of taps, 64, 4).
Tensor pack_depthwise(const Tensor& weight, int64_t channels, int64_t taps) {
  const std::string kind = std::string("pack_depthwise_s8/") + active_isa();
  return derived(weight, kind.c_str(), [&] {
    const int64_t blocks = ceil_div(channels, 64), bytes = ceil_div(taps, 4) * 4 * 64 * 2;
    const Tensor packed = Tensor::empty(DType::kInt8, {blocks, bytes}, weight.device());
    PackArgs args;
    args.k = taps;
    args.n = channels;
    args.src_col = taps;
    launch("pack_depthwise_s8", &KernelTable::pack_depthwise_s8, args, {blocks, static_cast<double>(bytes)},
           {read(&PackArgs::src, weight), write(&PackArgs::dst, packed)});
    return packed;
  });
}

// y (m, n) = x (m, k) · weight (n, k), for tensors of any shape with these volumes.
void launch_gemm(const char* op, const Tensor& x, const Tensor& weight, const Tensor& y, const QOutput& out, int64_t m,
                 int64_t n, int64_t k) {
  if (y.size() == 0) return;
  QGemmArgs args;
  set_output(args, out);
  args.m = m;
  args.n = n;
  args.k = args.lda = k;
  args.ldc = n;
  const double rows = static_cast<double>(m < kQStrip ? m : kQStrip);
  launch(op, &KernelTable::gemm_u8s8, args,
         {ceil_div(m, kQStrip) * ceil_div(n, kQColumns), quant_mac_ns(rows * kQColumns * static_cast<double>(k + 32)),
          2.0 * static_cast<double>(m * n * k)},
         {read(&QGemmArgs::a, x), read(&QGemmArgs::b, pack_weight(weight, 1, n, k)), read(&QGemmArgs::bias, out.bias),
          read(&QGemmArgs::scale, out.scale), write(&QGemmArgs::c, y)});
}

DType output_dtype(const QOutput& out) { return out.as_float ? DType::kFloat32 : DType::kUInt8; }

}  // namespace

Tensor quantize(const Tensor& x, float scale, int32_t zero_point) {
  check<DTypeError>(x.dtype() == DType::kFloat32, "quantize", "x must be float32, got ", name(x.dtype()));
  check_qparams("quantize", "scale", scale, "zero_point", zero_point);
  const Tensor y = Tensor::empty(DType::kUInt8, x.shape(), x.device());
  QuantizeArgs args;
  args.scale = scale;
  args.zero_point = zero_point;
  args.size = x.size();
  if (args.size > 0)
    launch("quantize", &KernelTable::quantize, args, element_blocks(args.size, 0.2),
           {read(&QuantizeArgs::x, x), write(&QuantizeArgs::y, y)});
  return y;
}

Tensor dequantize(const Tensor& x, float scale, int32_t zero_point) {
  check_dtype("dequantize", "x", x, DType::kUInt8);
  check_qparams("dequantize", "scale", scale, "zero_point", zero_point);
  const Tensor y = Tensor::empty(DType::kFloat32, x.shape(), x.device());
  QuantizeArgs args;
  args.scale = scale;
  args.zero_point = zero_point;
  args.size = x.size();
  if (args.size > 0)
    launch("dequantize", &KernelTable::dequantize, args, element_blocks(args.size, 0.1),
           {read(&QuantizeArgs::x, x), write(&QuantizeArgs::y, y)});
  return y;
}

Tensor qlinear(const Tensor& x, const Tensor& weight, const QOutput& out) {
  const char* op = "qlinear";
  check_dtype(op, "x", x, DType::kUInt8);
  check_dtype(op, "weight", weight, DType::kInt8);
  check<ShapeError>(weight.rank() == 2, op, "weight must be (out, in), got ", weight.shape());
  check<ShapeError>(x.rank() >= 1, op, "x needs at least one dimension, (..., in)");
  const int64_t k = weight.dim(1), n = weight.dim(0);
  check<ShapeError>(x.dim(-1) == k, op, "weight expects ", k, " input features, x has ", x.dim(-1), " (x: ", x.shape(),
                    ", weight: ", weight.shape(), ")");
  check_output(op, out, n, weight.shape());
  const Tensor y = Tensor::empty(output_dtype(out), x.shape().with(x.rank() - 1, n), x.device());
  launch_gemm(op, x, weight, y, out, n > 0 ? y.size() / n : 0, n, k);
  return y;
}

namespace {

struct Geometry {
  const char* op;
  Pair kernel, stride, padding, dilation{1, 1};
};

// Output size along one axis (0 = height, 1 = width).
int64_t output_size(const Geometry& g, int axis, int64_t size) {
  const int64_t kernel = g.kernel[axis], stride = g.stride[axis], padding = g.padding[axis],
                dilation = g.dilation[axis];
  constexpr int64_t kMost = int64_t{1} << 31;
  check<ArgumentError>(kernel >= 1 && kernel < kMost, g.op, "kernel size must be at least 1, got ", kernel);
  check<ArgumentError>(stride >= 1 && stride < kMost, g.op, "stride must be at least 1, got ", stride);
  check<ArgumentError>(padding >= 0 && padding < kMost, g.op, "padding must not be negative, got ", padding);
  check<ArgumentError>(dilation >= 1 && dilation < kMost, g.op, "dilation must be at least 1, got ", dilation);
  const int64_t reach = dilation * (kernel - 1) + 1;
  check<ShapeError>(reach <= size + 2 * padding, g.op, "a kernel that reaches over ", reach,
                    axis == 0 ? " rows" : " columns", " does not fit into ", size, " plus padding ", padding,
                    " on both sides");
  return (size + 2 * padding - reach) / stride + 1;
}

void check_image(const char* op, const Tensor& x) {
  check_dtype(op, "x", x, DType::kUInt8);
  check<ShapeError>(x.rank() == 4, op, "x must be (N, H, W, C), got ", x.shape());
}

ConvShape conv_shape(const Tensor& x, const Tensor& weight, const QConvParams& params) {
  const char* op = "qconv2d";
  check_image(op, x);
  check_dtype(op, "weight", weight, DType::kInt8);
  check<ShapeError>(weight.rank() == 4, op, "weight must be (O, KH, KW, C/groups), got ", weight.shape());
  const int64_t groups = params.groups;
  check<ArgumentError>(groups >= 1, op, "groups must be at least 1, got ", groups);
  check<ShapeError>(weight.dim(3) * groups == x.dim(3), op, "weight expects ", weight.dim(3) * groups,
                    " input channels, x has ", x.dim(3), " (x: ", x.shape(), ", NHWC; weight: ", weight.shape(),
                    ", groups ", groups, ")");
  check<ShapeError>(weight.dim(0) % groups == 0, op, "groups ", groups, " does not divide the ", weight.dim(0),
                    " output channels of weight");
  const Geometry g{op, {weight.dim(1), weight.dim(2)}, params.stride, params.padding, params.dilation};
  ConvShape s{};
  s.n = x.dim(0), s.h = x.dim(1), s.w = x.dim(2), s.c = x.dim(3);
  s.oh = output_size(g, 0, s.h), s.ow = output_size(g, 1, s.w), s.o = weight.dim(0);
  s.kh = g.kernel[0], s.kw = g.kernel[1];
  s.stride_h = g.stride[0], s.stride_w = g.stride[1];
  s.pad_h = g.padding[0], s.pad_w = g.padding[1];
  s.dilation_h = g.dilation[0], s.dilation_w = g.dilation[1];
  s.groups = groups;
  return s;
}

// Pixels of a strip, such that threads share few strips evenly: 49 pixels in 25 and 24. Each reads all weights, so that
// it has at least a register tile's.
int64_t even_strip(int64_t pixels) {
  constexpr int64_t kLeast = 8;
  const int64_t threads = ThreadPool::instance().size(), strips = ceil_div(pixels, kQStrip);
  if (strips >= kBusyItems * threads) return kQStrip;
  return std::max(ceil_div(pixels, ceil_div(strips, threads) * threads), kLeast);
}

// Weights of a convolution; levels that multiply bytes read whole groups of each run where it lies (see QConvArgs).
Tensor pack_conv_weight(const Tensor& weight, const ConvShape& s) {
  const int64_t n = s.o / s.groups, runs = conv_runs(s), k = s.kh * s.kw * (s.c / s.groups) / runs;
  if (k % 4 == 0 || !dots_bytes() || weight.device() != Device::kCpu) return pack_weight(weight, s.groups, n, runs * k);
  return pack_weight(weight, s.groups, n, k, runs);
}

}  // namespace

Tensor qconv2d(const Tensor& x, const Tensor& weight, const QOutput& out, const QConvParams& params) {
  const ConvShape s = conv_shape(x, weight, params);
  check_output("qconv2d", out, s.o, weight.shape());
  check_zero_point("qconv2d", "x_zero_point", params.x_zero_point);
  const Tensor y = Tensor::empty(output_dtype(out), {s.n, s.oh, s.ow, s.o}, x.device());
  if (y.size() == 0) return y;
  const int64_t pixels = s.n * s.oh * s.ow, k = s.kh * s.kw * (s.c / s.groups), n = s.o / s.groups;
  const bool plain_rows = s.kh * s.kw == 1 && s.stride_h * s.stride_w == 1 && s.pad_h + s.pad_w == 0 && s.groups == 1;
  if (plain_rows) {
    launch_gemm("qconv2d", x, weight, y, out, pixels, n, k);
    return y;
  }
  const double flops = 2.0 * static_cast<double>(pixels * n * k * s.groups);
  QConvArgs args;
  set_output(args, out);
  args.s = s;
  args.x_zero_point = params.x_zero_point;
  if (s.c == s.groups && s.o == s.groups) {
    launch("qconv2d", &KernelTable::depthwise2d_u8s8, args,
           {s.n * s.oh, 0.03 * static_cast<double>(s.ow * (s.kh * s.kw + 4) * (s.c + 16)), flops},
           {read(&QConvArgs::x, x), read(&QConvArgs::w, pack_depthwise(weight, s.c, s.kh * s.kw)),
            read(&QConvArgs::bias, out.bias), read(&QConvArgs::scale, out.scale), write(&QConvArgs::y, y)});
    return y;
  }
  if (quant_winograd_pays(s, weight)) {
    const Tensor w = dots_bytes() ? pack_quant_winograd(weight, s.o, s.c) : pack_weight(weight, 1, s.o, 9 * s.c);
    launch_quant_winograd(args, x, w, y, out);
    return y;
  }
  if (dots_bytes() && !dots_tiles() && x.device() == Device::kCpu) args.strip = even_strip(pixels);
  const double rows = static_cast<double>(std::min(pixels, args.strip));
  const double columns = static_cast<double>(ceil_div(n, kQPanel) * kQPanel);
  launch("qconv2d", &KernelTable::conv2d_u8s8, args,
         {ceil_div(pixels, args.strip) * s.groups, quant_mac_ns(rows * (columns + 16) * static_cast<double>(k + 32)),
          flops},
         {read(&QConvArgs::x, x), read(&QConvArgs::w, pack_conv_weight(weight, s)), read(&QConvArgs::bias, out.bias),
          read(&QConvArgs::scale, out.scale), write(&QConvArgs::y, y)});
  return y;
}

Tensor qadd(const Tensor& a, QParams qa, const Tensor& b, QParams qb, QParams qy, int32_t lo, int32_t hi) {
  const char* op = "qadd";
  check_dtype(op, "a", a, DType::kUInt8);
  check_dtype(op, "b", b, DType::kUInt8);
  check<ShapeError>(a.shape() == b.shape(), op, "shapes must agree, got ", a.shape(), " and ", b.shape());
  check_qparams(op, "a_scale", qa.scale, "a_zero_point", qa.zero_point);
  check_qparams(op, "b_scale", qb.scale, "b_zero_point", qb.zero_point);
  check_qparams(op, "y_scale", qy.scale, "y_zero_point", qy.zero_point);
  check_range(op, lo, hi);
  const Tensor y = Tensor::empty(DType::kUInt8, a.shape(), a.device());
  QAddArgs args;
  args.a_scale = qa.scale, args.b_scale = qb.scale, args.y_scale = qy.scale;
  args.a_zero_point = qa.zero_point, args.b_zero_point = qb.zero_point, args.y_zero_point = qy.zero_point;
  args.lo = lo, args.hi = hi;
  args.size = a.size();
  if (args.size > 0)
    launch(op, &KernelTable::qadd, args, element_blocks(args.size, 0.3),
           {read(&QAddArgs::a, a), read(&QAddArgs::b, b), write(&QAddArgs::y, y)});
  return y;
}

Tensor qlookup(const Tensor& x, const Tensor& table) {
  check_dtype("qlookup", "x", x, DType::kUInt8);
  check_dtype("qlookup", "table", table, DType::kUInt8);
  check<ShapeError>(table.shape() == Shape{256}, "qlookup", "table must have 256 entries, (256,), got ", table.shape());
  const Tensor y = Tensor::empty(DType::kUInt8, x.shape(), x.device());
  QLookupArgs args;
  args.size = x.size();
  if (args.size > 0)
    launch("qlookup", &KernelTable::qlookup, args, element_blocks(args.size, 0.4),
           {read(&QLookupArgs::x, x), read(&QLookupArgs::table, table), write(&QLookupArgs::y, y)});
  return y;
}

namespace {

void set_pool(PoolArgs& args, const Geometry& g, const Tensor& x) {
  check_image(g.op, x);
  args.dtype = DType::kUInt8;
  args.n = x.dim(0), args.h = x.dim(1), args.w = x.dim(2), args.c = x.dim(3);
  args.oh = output_size(g, 0, args.h), args.ow = output_size(g, 1, args.w);
  args.kh = g.kernel[0], args.kw = g.kernel[1];
  args.stride_h = g.stride[0], args.stride_w = g.stride[1];
  args.pad_h = g.padding[0], args.pad_w = g.padding[1];
  // As in PyTorch: every window then holds a pixel.
  check<ArgumentError>(2 * args.pad_h <= args.kh && 2 * args.pad_w <= args.kw, g.op, "padding (", args.pad_h, ", ",
                       args.pad_w, ") must be at most half the kernel (", args.kh, ", ", args.kw, ")");
}

Work pool_work(const PoolArgs& args) {
  return {args.n * args.oh, 0.05 * static_cast<double>(args.ow * (args.kh * args.kw + 4) * args.c)};
}

Tensor average(QAvgPoolArgs& args, const Tensor& x, const char* op) {
  // The kernel adds up in int32.
  check<ArgumentError>(args.kh * args.kw <= (int64_t{1} << 23), op,
                       "windows of more than 2^23 pixels are not supported, got ", args.kh, " x ", args.kw);
  const Tensor y = Tensor::empty(DType::kUInt8, {args.n, args.oh, args.ow, args.c}, x.device());
  if (y.size() > 0)
    launch(op, &KernelTable::avg_pool2d_u8, args, pool_work(args), {read(&PoolArgs::x, x), write(&PoolArgs::y, y)});
  return y;
}

}  // namespace

Tensor qmax_pool2d(const Tensor& x, Pair kernel, Pair stride, Pair padding) {
  PoolArgs args;
  set_pool(args, {"qmax_pool2d", kernel, stride, padding}, x);
  const Tensor y = Tensor::empty(DType::kUInt8, {args.n, args.oh, args.ow, args.c}, x.device());
  if (y.size() > 0)
    launch("qmax_pool2d", &KernelTable::max_pool2d_u8, args, pool_work(args),
           {read(&PoolArgs::x, x), write(&PoolArgs::y, y)});
  return y;
}

Tensor qavg_pool2d(const Tensor& x, Pair kernel, Pair stride, Pair padding, int32_t zero_point,
                   bool count_include_pad) {
  check_zero_point("qavg_pool2d", "zero_point", zero_point);
  QAvgPoolArgs args;
  set_pool(args, {"qavg_pool2d", kernel, stride, padding}, x);
  args.zero_point = zero_point;
  args.count_include_pad = count_include_pad;
  return average(args, x, "qavg_pool2d");
}

Tensor qmean_hw(const Tensor& x) {
  check_image("qmean_hw", x);
  check<ShapeError>(x.dim(1) > 0 && x.dim(2) > 0, "qmean_hw", "an image without pixels has no mean (x: ", x.shape(),
                    ")");
  QAvgPoolArgs args;
  set_pool(args, {"qmean_hw", {x.dim(1), x.dim(2)}, {1, 1}, {0, 0}}, x);
  return average(args, x, "qmean_hw").reshape({x.dim(0), x.dim(3)});
}

}  // namespace quernel::ops
