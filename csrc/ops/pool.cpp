#include "ops/pool.h"

#include "core/error.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr int64_t kMost = int64_t{1} << 31;  // taps are counted in int32

// Checks a window against an image and fills in the geometry.
PoolArgs geometry(const char* op, const Shape& x, DType dtype, const PoolWindow& window) {
  check<ShapeError>(x.rank() == 4, op, "expected an image of rank 4 (N, H, W, C), got ", x);
  check<DTypeError>(dtype == DType::kFloat32 || dtype == DType::kFloat64, op, "needs float32 or float64, got ",
                    name(dtype));
  for (int i = 0; i < 2; ++i) {
    const int64_t kernel = window.kernel[i], padding = window.padding[i];
    check<ArgumentError>(kernel >= 1 && window.stride[i] >= 1, op, "kernel and stride must be at least 1, got ", kernel,
                         " and ", window.stride[i]);
    check<ArgumentError>(kernel < kMost && window.stride[i] < kMost, op,
                         "kernel and stride must be less than 2^31, got ", kernel, " and ", window.stride[i]);
    check<ArgumentError>(padding >= 0 && 2 * padding <= kernel, op, "padding must be at most half the kernel size ",
                         kernel, ", got ", padding);
    check<ShapeError>(x[1 + i] + 2 * padding >= kernel, op, "kernel size ", kernel, " exceeds the padded image (x: ", x,
                      ", NHWC)");
  }
  check<ArgumentError>(window.kernel[0] * window.kernel[1] < kMost, op, "windows hold less than 2^31 elements, got ",
                       window.kernel[0], " x ", window.kernel[1]);
  PoolArgs args;
  args.dtype = dtype;
  args.n = x[0], args.h = x[1], args.w = x[2], args.c = x[3];
  args.kh = window.kernel[0], args.kw = window.kernel[1];
  args.stride_h = window.stride[0], args.stride_w = window.stride[1];
  args.pad_h = window.padding[0], args.pad_w = window.padding[1];
  args.oh = (args.h + 2 * args.pad_h - args.kh) / args.stride_h + 1;
  args.ow = (args.w + 2 * args.pad_w - args.kw) / args.stride_w + 1;
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

}  // namespace

std::pair<Tensor, Tensor> max_pool2d(const Tensor& x, const PoolWindow& window) {
  const PoolArgs args = geometry("max_pool2d", x.shape(), x.dtype(), window);
  const Tensor y = Tensor::empty(x.dtype(), output_shape(args));
  const Tensor index = Tensor::empty(DType::kInt32, y.shape());
  launch("max_pool2d", &KernelTable::max_pool2d, args, forward_work(args),
         {read(&PoolArgs::x, x), write(&PoolArgs::y, y), write(&PoolArgs::index_out, index)});
  return {y, index};
}

Tensor max_pool2d_grad(const Tensor& g, const Tensor& index, const Shape& x_shape, const PoolWindow& window) {
  const PoolArgs args = geometry("max_pool2d", x_shape, g.dtype(), window);
  check_gradient("max_pool2d", g, args);
  check<ShapeError>(index.shape() == g.shape() && index.dtype() == DType::kInt32, "max_pool2d",
                    "the index must be the int32 of the forward pass, got ", name(index.dtype()), " ", index.shape());
  const Tensor dx = Tensor::empty(g.dtype(), x_shape);
  launch("max_pool2d_grad", &KernelTable::max_pool2d_grad, args, backward_work(args),
         {read(&PoolArgs::x, g), read(&PoolArgs::index, index), write(&PoolArgs::y, dx)});
  return dx;
}

Tensor avg_pool2d(const Tensor& x, const PoolWindow& window, bool count_include_pad) {
  PoolArgs args = geometry("avg_pool2d", x.shape(), x.dtype(), window);
  args.count_include_pad = count_include_pad;
  const Tensor y = Tensor::empty(x.dtype(), output_shape(args));
  launch("avg_pool2d", &KernelTable::avg_pool2d, args, forward_work(args),
         {read(&PoolArgs::x, x), write(&PoolArgs::y, y)});
  return y;
}

Tensor avg_pool2d_grad(const Tensor& g, const Shape& x_shape, const PoolWindow& window, bool count_include_pad) {
  PoolArgs args = geometry("avg_pool2d", x_shape, g.dtype(), window);
  args.count_include_pad = count_include_pad;
  check_gradient("avg_pool2d", g, args);
  const Tensor dx = Tensor::empty(g.dtype(), x_shape);
  launch("avg_pool2d_grad", &KernelTable::avg_pool2d_grad, args, backward_work(args),
         {read(&PoolArgs::x, g), write(&PoolArgs::y, dx)});
  return dx;
}

}  // namespace quernel::ops
