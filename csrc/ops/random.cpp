#include "ops/random.h"

#include <cmath>

#include "core/error.h"
#include "ops/common.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

void check_probability(double p) {
  check<ArgumentError>(p >= 0 && p <= 1, "dropout", "p must be a probability in [0, 1], is ", p);
}

uint64_t blocks_of(int64_t size, int64_t per_block) {
  return static_cast<uint64_t>((size + per_block - 1) / per_block);
}

Tensor random(const char* op, const Shape& shape, RandomFillArgs args, const Generator& generator, Device device) {
  check_floating(op, "dtype", args.dtype);
  const Tensor y = Tensor::empty(args.dtype, shape, device);
  args.size = y.size();
  args.offset = generator.reserve(blocks_of(y.size(), args.dtype == DType::kFloat64 ? 2 : 4), device);
  launch(op, &KernelTable::random_fill, args, element_blocks(y.size(), args.normal ? 20 : 2),
         {read(&RandomFillArgs::state, generator.state(device)), write(&RandomFillArgs::y, y)});
  return y;
}

}  // namespace

std::pair<Tensor, Tensor> dropout(const Tensor& x, double p, const Generator& generator) {
  check_floating("dropout", "x", x.dtype());
  check_probability(p);
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device()),
               mask = Tensor::empty(DType::kUInt8, x.shape(), x.device());
  DropoutArgs args;
  args.dtype = x.dtype();
  args.p = p;
  args.size = x.size();
  args.offset = generator.reserve(blocks_of(x.size(), 4), x.device());
  launch("dropout", &KernelTable::dropout, args, element_blocks(x.size(), 1),
         {read(&DropoutArgs::state, generator.state(x.device())), read(&DropoutArgs::x, x), write(&DropoutArgs::y, y),
          write(&DropoutArgs::mask, mask)});
  return {y, mask};
}

Tensor dropout_grad(const Tensor& g, const Tensor& mask, double p) {
  check_floating("dropout", "g", g.dtype());
  check_probability(p);
  check<DTypeError>(mask.dtype() == DType::kUInt8, "dropout", "mask must be uint8, is ", name(mask.dtype()));
  check<ShapeError>(mask.shape() == g.shape(), "dropout", "mask has shape ", mask.shape(), ", g has ", g.shape());
  const Tensor dx = Tensor::empty(g.dtype(), g.shape(), g.device());
  DropoutGradArgs args;
  args.dtype = g.dtype();
  args.p = p;
  args.size = g.size();
  launch("dropout", &KernelTable::dropout_grad, args, element_blocks(g.size(), 0.4),
         {read(&DropoutGradArgs::g, g), read(&DropoutGradArgs::mask, mask), write(&DropoutGradArgs::dx, dx)});
  return dx;
}

Tensor uniform(const Shape& shape, double lo, double hi, DType dtype, const Generator& generator, Device device) {
  check<ArgumentError>(lo < hi && std::isfinite(hi - lo), "uniform", "the range [", lo, ", ", hi,
                       ") is empty or unbounded");
  RandomFillArgs args;
  args.dtype = dtype;
  args.lo = lo;
  args.hi = hi;
  return random("uniform", shape, args, generator, device);
}

Tensor normal(const Shape& shape, double mean, double sd, DType dtype, const Generator& generator, Device device) {
  check<ArgumentError>(std::isfinite(mean) && std::isfinite(sd) && sd >= 0, "normal", "mean ", mean, " and std ", sd,
                       " must be finite, and std not negative");
  RandomFillArgs args;
  args.dtype = dtype;
  args.normal = true;
  args.lo = mean;
  args.hi = sd;
  return random("normal", shape, args, generator, device);
}

}  // namespace quernel::ops
