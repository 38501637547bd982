#include "ops/upsample.h"

#include "core/error.h"
#include "ops/common.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr int64_t kMost = int64_t{1} << 24;  // positions are counted in float32

UpsampleArgs geometry(const char* op, const Shape& x, DType dtype, const Resampling& how) {
  check<ShapeError>(x.rank() == 4, op, "expected an image of rank 4 (N, H, W, C), got ", x);
  UpsampleArgs args;
  args.dtype = dtype;
  args.itemsize = static_cast<int32_t>(itemsize(dtype));
  args.mode = how.mode;
  args.n = x[0], args.h = x[1], args.w = x[2], args.c = x[3];
  args.oh = how.size[0], args.ow = how.size[1];
  args.scale_h = how.scale[0], args.scale_w = how.scale[1];
  check<ShapeError>(args.h >= 1 && args.w >= 1 && args.oh >= 1 && args.ow >= 1, op,
                    "images have at least one pixel, got ", args.h, " x ", args.w, " to become ", args.oh, " x ",
                    args.ow, " (x: ", x, ", NHWC)");
  check<ArgumentError>(args.h < kMost && args.w < kMost && args.oh < kMost && args.ow < kMost, op,
                       "sides must be less than 2^24, got ", args.h, " x ", args.w, " and ", args.oh, " x ", args.ow);
  check<ArgumentError>(args.scale_h >= 0 && args.scale_w >= 0, op, "scales must be at least 0, got ", args.scale_h,
                       " and ", args.scale_w);
  return args;
}

Work row_work(const UpsampleArgs& a, int64_t rows, int64_t pixels, double taps) {
  return {a.c ? a.n * rows : 0, static_cast<double>(pixels) * taps * (1 + 0.1 * static_cast<double>(a.c))};
}

bool is_linear(UpsampleMode mode) { return mode == UpsampleMode::kLinear || mode == UpsampleMode::kLinearAligned; }

}  // namespace

Tensor upsample(const Tensor& x, const Resampling& how) {
  constexpr const char* kOp = "upsample";
  if (is_linear(how.mode)) check_floating(kOp, "x", x.dtype());
  const UpsampleArgs args = geometry(kOp, x.shape(), x.dtype(), how);
  const Tensor y = Tensor::empty(x.dtype(), {args.n, args.oh, args.ow, args.c}, x.device());
  launch(kOp, &KernelTable::upsample, args, row_work(args, args.oh, args.ow, is_linear(how.mode) ? 4 : 2),
         {read(&UpsampleArgs::x, x), write(&UpsampleArgs::y, y)});
  return y;
}

Tensor upsample_grad(const Tensor& g, const Shape& x_shape, const Resampling& how) {
  constexpr const char* kOp = "upsample_grad";
  check_floating(kOp, "the gradient", g.dtype());
  const UpsampleArgs args = geometry(kOp, x_shape, g.dtype(), how);
  const Shape expected{args.n, args.oh, args.ow, args.c};
  check<ShapeError>(g.shape() == expected, kOp, "the gradient has shape ", g.shape(), ", the output had ", expected);
  const Tensor dx = Tensor::empty(g.dtype(), x_shape, g.device());
  const double outputs = static_cast<double>(args.oh * args.ow) / static_cast<double>(args.h * args.w);
  launch(kOp, &KernelTable::upsample_grad, args,
         row_work(args, args.h, args.w, 1 + outputs * (is_linear(how.mode) ? 4 : 1)),
         {read(&UpsampleArgs::x, g), write(&UpsampleArgs::y, dx)});
  return dx;
}

}  // namespace quernel::ops
