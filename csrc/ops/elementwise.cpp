#include "ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "ops/common.h"
#include "ops/strided.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

// Moving memory through the cache: about 16 bytes a nanosecond.
double move_ns(DType dtype) { return static_cast<double>(itemsize(dtype)) / 16; }

double unary_ns(UnaryOp kind, DType dtype) {
  const bool wide = dtype == DType::kFloat64;  // libm, a lane at a time
  switch (kind) {
    case UnaryOp::kExp:
    case UnaryOp::kExpm1:
    case UnaryOp::kLog:
    case UnaryOp::kTanh:
    case UnaryOp::kSigmoid:
    case UnaryOp::kSilu:
    case UnaryOp::kElu:
      return wide ? 8 : 0.5;
    case UnaryOp::kLog1p:
    case UnaryOp::kErf:
    case UnaryOp::kGelu:
    case UnaryOp::kMish:
    case UnaryOp::kLogSigmoid:
    case UnaryOp::kSoftplus:
      return wide ? 20 : 1.2;
    case UnaryOp::kSin:
    case UnaryOp::kCos:
      return wide ? 12 : 6;
    case UnaryOp::kSqrt:
    case UnaryOp::kRsqrt:
    case UnaryOp::kReciprocal:
    case UnaryOp::kSoftsign:
      return wide ? 1.2 : 0.5;
    default:
      return 2 * move_ns(dtype);
  }
}

double binary_ns(BinaryOp kind, DType dtype) {
  const bool wide = dtype == DType::kFloat64;
  switch (kind) {
    case BinaryOp::kPow:
    case BinaryOp::kFloorDiv:
    case BinaryOp::kRemainder:
      return 12;
    case BinaryOp::kDiv:
      return is_floating(dtype) ? (wide ? 1.2 : 0.5) : 6;
    case BinaryOp::kGeluGrad:
      return wide ? 30 : 1.5;
    case BinaryOp::kSiluGrad:
    case BinaryOp::kMishGrad:
    case BinaryOp::kLogSigmoidGrad:
    case BinaryOp::kEluGrad:
    case BinaryOp::kSoftplusGrad:
      return wide ? 10 : 0.8;
    default:
      return 3 * move_ns(dtype);
  }
}

bool wants_floating(UnaryOp kind) { return kind >= UnaryOp::kFloor; }

bool compares(BinaryOp kind) { return kind >= BinaryOp::kEq && kind <= BinaryOp::kLogicalOr; }

// Comparisons, logic and extrema are what bool has; a sum is `or` and a product `and`, as in NumPy.
BinaryOp bool_kind(const char* op, BinaryOp kind) {
  if (kind == BinaryOp::kAdd) return BinaryOp::kLogicalOr;
  if (kind == BinaryOp::kMul) return BinaryOp::kLogicalAnd;
  check<DTypeError>(compares(kind) || kind == BinaryOp::kMaximum || kind == BinaryOp::kMinimum, op,
                    "is not defined for bool; cast to an integer or float dtype first");
  return kind;
}

// A Python number must be a value of an integer tensor's dtype: nothing is rounded or wrapped unasked.
void check_scalar(const char* op, double value, DType dtype) {
  if (is_floating(dtype)) return;
  double lo = 0, hi = 1;
  switch (dtype) {
    case DType::kInt8:
      lo = -128, hi = 127;
      break;
    case DType::kUInt8:
      hi = 255;
      break;
    case DType::kInt32:
      lo = -0x1p31, hi = 0x1p31 - 1;
      break;
    case DType::kInt64:
      lo = -0x1p53, hi = 0x1p53;  // beyond, a double would not be the number that was given
      break;
    default:
      break;
  }
  check<ArgumentError>(std::trunc(value) == value && value >= lo && value <= hi, op, "the scalar ", value,
                       " is not exactly a value of dtype ", name(dtype), "; cast the tensor first, or pass a tensor");
}

const Tensor* tensor_of(const Value& value) { return std::get_if<Tensor>(&value); }
double scalar_of(const Value& value) {
  const double* scalar = std::get_if<double>(&value);
  return scalar ? *scalar : 0;
}

// The dtype of two operands, at least one of which is a tensor.
DType common_dtype(const char* op, const Value& a, const Value& b) {
  const Tensor *x = tensor_of(a), *y = tensor_of(b);
  check<DTypeError>(x || y, op, "expects at least one tensor, got two numbers");
  const DType dtype = (x ? x : y)->dtype();
  check<DTypeError>(!x || !y || y->dtype() == dtype, op, "operands have dtypes ", name(dtype), " and ",
                    name((y ? y : x)->dtype()), "; cast one of them");
  check_not_half(op, dtype);
  if (!x) check_scalar(op, scalar_of(a), dtype);
  if (!y) check_scalar(op, scalar_of(b), dtype);
  return dtype;
}

void set_strides(int64_t* strides, const Tensor* t, const Shape& to) {
  if (!t) return;
  const Strides s = broadcast_strides(t->shape(), to);
  for (int d = 0; d < to.rank(); ++d) strides[d] = s[d];
}

const Tensor& or_absent(const Tensor* t) {
  static const Tensor absent;
  return t ? *t : absent;
}

void set_params(const char* op, double (&to)[kElementParams], const Params& params) {
  check<ArgumentError>(params.size() <= kElementParams, op, "takes at most ", kElementParams, " parameters, got ",
                       params.size());
  std::copy(params.begin(), params.end(), to);
}

void launch_unary(const char* op, UnaryOp kind, const Tensor& x, const Tensor& y, const Params& params = {}) {
  UnaryArgs args;
  args.op = kind;
  set_params(op, args.params, params);
  args.dtype = x.dtype();
  args.size = x.size();
  launch(op, &KernelTable::unary, args, element_blocks(x.size(), unary_ns(kind, x.dtype())),
         {read(&UnaryArgs::x, x), write(&UnaryArgs::y, y)});
}

void launch_binary(const char* op, BinaryOp kind, const Value& a, const Value& b, DType dtype, const Operand& y,
                   const Shape& shape, const Params& params = {}) {
  if (kind == BinaryOp::kGt || kind == BinaryOp::kGe) {
    return launch_binary(op, kind == BinaryOp::kGt ? BinaryOp::kLt : BinaryOp::kLe, b, a, dtype, y, shape);
  }
  const Tensor *x = tensor_of(a), *z = tensor_of(b);
  BinaryArgs args;
  args.op = kind;
  args.dtype = dtype;
  args.scalar = x ? scalar_of(b) : scalar_of(a);
  set_params(op, args.params, params);
  set_strides(args.a_strides, x, shape);
  set_strides(args.b_strides, z, shape);
  args.shape = collapse(shape, {args.a_strides, args.b_strides});
  launch(op, &KernelTable::binary, args, element_blocks(shape.volume(), binary_ns(kind, dtype)),
         {read(&BinaryArgs::a, or_absent(x)), read(&BinaryArgs::b, or_absent(z)), y});
}

}  // namespace

Tensor unary(const char* op, UnaryOp kind, const Tensor& x, const Params& params) {
  if (kind != UnaryOp::kCopy) check_not_half(op, x.dtype());
  check<DTypeError>(!wants_floating(kind) || is_floating(x.dtype()), op, "expects a floating-point tensor, x is ",
                    name(x.dtype()), "; cast it first");
  const bool logical = kind == UnaryOp::kLogicalNot || kind == UnaryOp::kCopy;
  check<DTypeError>(logical || x.dtype() != DType::kBool, op,
                    "is not defined for bool; use logical_not, or cast to an integer or float dtype first");
  const Tensor y = Tensor::empty(kind == UnaryOp::kLogicalNot ? DType::kBool : x.dtype(), x.shape(), x.device());
  launch_unary(op, kind, x, y, params);
  return y;
}

Tensor binary(const char* op, BinaryOp kind, const Value& a, const Value& b, const Params& params) {
  const DType dtype = common_dtype(op, a, b);
  if (dtype == DType::kBool) kind = bool_kind(op, kind);
  check<DTypeError>(kind < BinaryOp::kReluGrad || is_floating(dtype), op, "expects floating-point tensors, not ",
                    name(dtype));
  const Tensor *x = tensor_of(a), *z = tensor_of(b);
  const Shape shape = x && z ? broadcast(op, x->shape(), z->shape()) : (x ? x : z)->shape();
  const Tensor y = Tensor::empty(compares(kind) ? DType::kBool : dtype, shape, (x ? x : z)->device());
  launch_binary(op, kind, a, b, dtype, write(&BinaryArgs::y, y), shape, params);
  return y;
}

Tensor where(const Tensor& condition, const Value& a, const Value& b) {
  check<DTypeError>(condition.dtype() == DType::kBool, "where", "condition must be bool, is ", name(condition.dtype()),
                    "; compare it with 0");
  const DType dtype = common_dtype("where", a, b);
  const Tensor *x = tensor_of(a), *z = tensor_of(b);
  Shape shape = condition.shape();
  if (x) shape = broadcast("where", shape, x->shape());
  if (z) shape = broadcast("where", shape, z->shape());
  const Tensor y = Tensor::empty(dtype, shape, condition.device());
  WhereArgs args;
  args.dtype = dtype;
  args.a_scalar = scalar_of(a);
  args.b_scalar = scalar_of(b);
  set_strides(args.c_strides, &condition, shape);
  set_strides(args.a_strides, x, shape);
  set_strides(args.b_strides, z, shape);
  args.shape = collapse(shape, {args.c_strides, args.a_strides, args.b_strides});
  launch("where", &KernelTable::where, args, element_blocks(shape.volume(), 4 * move_ns(dtype)),
         {read(&WhereArgs::condition, condition), read(&WhereArgs::a, or_absent(x)), read(&WhereArgs::b, or_absent(z)),
          write(&WhereArgs::y, y)});
  return y;
}

Tensor clip(const Tensor& x, double lo, double hi) {
  check_not_half("clip", x.dtype());
  check<DTypeError>(x.dtype() != DType::kBool, "clip", "is not defined for bool; cast first");
  check<ArgumentError>(!std::isnan(lo) && !std::isnan(hi), "clip", "the limits are ", lo, " and ", hi,
                       "; use -inf or inf for no limit");
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
  ClipArgs args;
  args.dtype = x.dtype();
  args.lo = lo;
  args.hi = hi;
  args.size = x.size();
  launch("clip", &KernelTable::clip, args, element_blocks(x.size(), 2 * move_ns(x.dtype())),
         {read(&ClipArgs::x, x), write(&ClipArgs::y, y)});
  return y;
}

Tensor cast(const Tensor& x, DType dtype) {
  if (dtype == x.dtype()) return copy(x);
  const Tensor y = Tensor::empty(dtype, x.shape(), x.device());
  CastArgs args;
  args.from = x.dtype();
  args.to = dtype;
  args.size = x.size();
  launch("cast", &KernelTable::cast, args, element_blocks(x.size(), move_ns(x.dtype()) + move_ns(dtype)),
         {read(&CastArgs::x, x), write(&CastArgs::y, y)});
  return y;
}

Tensor copy(const Tensor& x) { return unary("copy", UnaryOp::kCopy, x); }

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  if (is_half(dtype)) return cast(full(shape, value, DType::kFloat64, device), dtype);  // as NumPy and ml_dtypes round
  const Tensor y = Tensor::empty(dtype, shape, device);
  fill_into(y, value);
  return y;
}

void fill_into(const Tensor& dst, double value) {
  check_not_half("fill", dst.dtype());
  check_scalar("fill", value, dst.dtype());
  FillArgs args;
  args.dtype = dst.dtype();
  args.value = value;
  args.size = dst.size();
  launch("fill", &KernelTable::fill, args, element_blocks(dst.size(), move_ns(dst.dtype())),
         {write(&FillArgs::y, dst)});
}

void copy_into(const Tensor& dst, const Tensor& src) {
  check<ShapeError>(dst.shape() == src.shape(), "copy", "cannot copy ", src.shape(), " into ", dst.shape());
  check<DTypeError>(dst.dtype() == src.dtype(), "copy", "cannot copy ", name(src.dtype()), " into ", name(dst.dtype()),
                    "; cast it first");
  launch_unary("copy", UnaryOp::kCopy, src, dst);
}

void add_into(const Tensor& dst, const Tensor& src) {
  const DType dtype = common_dtype("add", dst, src);
  check<DTypeError>(dtype != DType::kBool, "add", "in place is not defined for bool; use logical_or");
  check<ShapeError>(broadcast("add", dst.shape(), src.shape()) == dst.shape(), "add", "cannot add ", src.shape(),
                    " to ", dst.shape(), " in place");
  launch_binary("add", BinaryOp::kAdd, dst, src, dtype, update(&BinaryArgs::y, dst), dst.shape());
}

}  // namespace quernel::ops
