#include "ops/pool.h"

#include <algorithm>

#include "core/error.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr int64_t kMost = int64_t{1} << 31;
constexpr int64_t kMostTaps = int64_t{1} << 24;  // the kernels count them in float32

PoolArgs image(const char* op, const Shape& x, DType dtype) {
  check<ShapeError>(x.rank() == 4, op, "expected an image of rank 4 (N, H, W, C), got ", x);
  check<DTypeError>(dtype == DType::kFloat32 || dtype == DType::kFloat64, op, "needs float32 or float64, got ",
                    name(dtype));
  PoolArgs args;
  args.dtype = dtype;
  args.n = x[0], args.h = x[1], args.w = x[2], args.c = x[3];
  return args;
}

void check_taps(const char* op, const PoolArgs& args) {
  check<ArgumentError>(args.kh * args.kw <= kMostTaps, op, "windows hold at most 2^24 elements, got ", args.kh, " x ",
                       args.kw);
}

// The number of windows along axis i of an image, as in PyTorch.
int64_t outputs(const char* op, const Shape& x, const PoolWindow& window, int i) {
  const int64_t kernel = window.kernel[i], padding = window.padding[i], stride = window.stride[i];
  const int64_t dilation = window.dilation[i], size = x[1 + i];
  check<ArgumentError>(kernel >= 1 && stride >= 1 && dilation >= 1, op,
                       "kernel, stride and dilation must be at least 1, got ", kernel, ", ", stride, " and ", dilation);
  check<ArgumentError>(kernel < kMost && stride < kMost && dilation < kMost, op,
                       "kernel, stride and dilation must be less than 2^31, got ", kernel, ", ", stride, " and ",
                       dilation);
  const int64_t span = dilation * (kernel - 1) + 1;
  check<ArgumentError>(padding >= 0 && 2 * padding <= span, op, "padding must be at most half the kernel size ", span,
                       ", got ", padding);
  const int64_t room = size + 2 * padding - span + (window.ceil_mode ? stride - 1 : 0);
  check<ShapeError>(room >= 0, op, "kernel size ", span, " exceeds the padded image (x: ", x, ", NHWC)");
  const int64_t count = room / stride + 1;
  // A window that would begin behind the image is left out.
  return window.ceil_mode && (count - 1) * stride >= size + padding ? count - 1 : count;
}

// Checks a window against an image and fills in the geometry.
PoolArgs geometry(const char* op, const Shape& x, DType dtype, const PoolWindow& window) {
  PoolArgs args = image(op, x, dtype);
  args.oh = outputs(op, x, window, 0), args.ow = outputs(op, x, window, 1);
  args.kh = window.kernel[0], args.kw = window.kernel[1];
  args.stride_h = window.stride[0], args.stride_w = window.stride[1];
  args.pad_h = window.padding[0], args.pad_w = window.padding[1];
  args.dilation_h = window.dilation[0], args.dilation_w = window.dilation[1];
  check_taps(op, args);
  return args;
}

PoolArgs adaptive(const char* op, const Shape& x, DType dtype, PoolSize output) {
  PoolArgs args = image(op, x, dtype);
  check<ShapeError>(args.h > 0 && args.w > 0, op, "an image without pixels cannot be pooled (x: ", x, ", NHWC)");
  for (const int64_t size : output)
    check<ArgumentError>(size >= 1 && size < kMost, op, "output sizes lie in [1, 2^31), got ", size);
  args.adaptive = true;
  args.oh = output[0], args.ow = output[1];
  const auto longest = [](int64_t size, int64_t count) { return (size + count - 1) / count + 1; };
  args.kh = longest(args.h, args.oh), args.kw = longest(args.w, args.ow);
  args.stride_h = std::max<int64_t>(1, args.h / args.oh), args.stride_w = std::max<int64_t>(1, args.w / args.ow);
  check_taps(op, args);
  return args;
}

Shape output_shape(const PoolArgs& args) { return {args.n, args.oh, args.ow, args.c}; }

// About a quarter of a nanosecond per element and tap; rows of few channels cost their loops.
Work forward_work(const PoolArgs& a) {
  const double per_tap = 1 + 0.25 * static_cast<double>(a.c);
  return {a.c ? a.n * a.oh : 0, static_cast<double>(a.ow * a.kh * a.kw) * per_tap};
}

Work backward_work(const PoolArgs& a) {
  const double windows = static_cast<double>(a.kh * a.kw) / static_cast<double>(a.stride_h * a.stride_w);
  return {a.c ? a.n * a.h : 0, static_cast<double>(a.w) * (windows + 1) * (1 + 0.25 * static_cast<double>(a.c))};
}

void check_gradient(const char* op, const Tensor& g, const PoolArgs& args) {
  check<ShapeError>(g.shape() == output_shape(args), op, "the gradient has shape ", g.shape(), ", the output had ",
                    output_shape(args));
}

std::pair<Tensor, Tensor> largest(const char* op, const Tensor& x, const PoolArgs& args, bool want_taps) {
  const Tensor y = Tensor::empty(x.dtype(), output_shape(args), x.device());
  const Tensor index = want_taps ? Tensor::empty(DType::kInt32, y.shape(), x.device()) : Tensor();
  launch(op, &KernelTable::max_pool2d, args, forward_work(args),
         {read(&PoolArgs::x, x), write(&PoolArgs::y, y), write(&PoolArgs::index_out, index)});
  return {y, index};
}

Tensor largest_grad(const char* op, const Tensor& g, const Tensor& index, const PoolArgs& args) {
  check_gradient(op, g, args);
  check<ShapeError>(index.shape() == g.shape() && index.dtype() == DType::kInt32, op,
                    "the index must be the int32 of the forward pass, got ", name(index.dtype()), " ", index.shape());
  const Tensor dx = Tensor::empty(g.dtype(), {args.n, args.h, args.w, args.c}, g.device());
  launch(op, &KernelTable::max_pool2d_grad, args, backward_work(args),
         {read(&PoolArgs::x, g), read(&PoolArgs::index, index), write(&PoolArgs::y, dx)});
  return dx;
}

}  // namespace

std::pair<Tensor, Tensor> max_pool2d(const Tensor& x, const PoolWindow& window, bool want_taps) {
  return largest("max_pool2d", x, geometry("max_pool2d", x.shape(), x.dtype(), window), want_taps);
}

Tensor max_pool2d_grad(const Tensor& g, const Tensor& index, const Shape& x_shape, const PoolWindow& window) {
  return largest_grad("max_pool2d_grad", g, index, geometry("max_pool2d", x_shape, g.dtype(), window));
}

std::pair<Tensor, Tensor> adaptive_max_pool2d(const Tensor& x, PoolSize output, bool want_taps) {
  return largest("adaptive_max_pool2d", x, adaptive("adaptive_max_pool2d", x.shape(), x.dtype(), output), want_taps);
}

Tensor adaptive_max_pool2d_grad(const Tensor& g, const Tensor& index, const Shape& x_shape) {
  constexpr const char* kOp = "adaptive_max_pool2d_grad";
  check<ShapeError>(g.rank() == 4, kOp, "expected a gradient of rank 4 (N, H, W, C), got ", g.shape());
  return largest_grad(kOp, g, index, adaptive(kOp, x_shape, g.dtype(), {g.dim(1), g.dim(2)}));
}

Tensor adaptive_avg_pool2d(const Tensor& x, PoolSize output) {
  const PoolArgs args = adaptive("adaptive_avg_pool2d", x.shape(), x.dtype(), output);
  const Tensor y = Tensor::empty(x.dtype(), output_shape(args), x.device());
  launch("adaptive_avg_pool2d", &KernelTable::avg_pool2d, args, forward_work(args),
         {read(&PoolArgs::x, x), write(&PoolArgs::y, y)});
  return y;
}

Tensor adaptive_avg_pool2d_grad(const Tensor& g, const Shape& x_shape) {
  constexpr const char* kOp = "adaptive_avg_pool2d_grad";
  check<ShapeError>(g.rank() == 4, kOp, "expected a gradient of rank 4 (N, H, W, C), got ", g.shape());
  const PoolArgs args = adaptive(kOp, x_shape, g.dtype(), {g.dim(1), g.dim(2)});
  check_gradient(kOp, g, args);
  const Tensor dx = Tensor::empty(g.dtype(), x_shape, g.device());
  launch(kOp, &KernelTable::avg_pool2d_grad, args, backward_work(args),
         {read(&PoolArgs::x, g), write(&PoolArgs::y, dx)});
  return dx;
}

Tensor avg_pool2d(const Tensor& x, const PoolWindow& window, bool count_include_pad) {
  PoolArgs args = geometry("avg_pool2d", x.shape(), x.dtype(), window);
  args.count_include_pad = count_include_pad;
  const Tensor y = Tensor::empty(x.dtype(), output_shape(args), x.device());
  launch("avg_pool2d", &KernelTable::avg_pool2d, args, forward_work(args),
         {read(&PoolArgs::x, x), write(&PoolArgs::y, y)});
  return y;
}

Tensor avg_pool2d_grad(const Tensor& g, const Shape& x_shape, const PoolWindow& window, bool count_include_pad) {
  PoolArgs args = geometry("avg_pool2d", x_shape, g.dtype(), window);
  args.count_include_pad = count_include_pad;
  check_gradient("avg_pool2d", g, args);
  const Tensor dx = Tensor::empty(g.dtype(), x_shape, g.device());
  launch("avg_pool2d_grad", &KernelTable::avg_pool2d_grad, args, backward_work(args),
         {read(&PoolArgs::x, g), write(&PoolArgs::y, dx)});
  return dx;
}

}  // namespace quernel::ops
