#include "ops/bf16.h"

#include "core/error.h"
#include "ops/common.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "runtime/derived.h"

namespace quernel::ops {
namespace {

// A as the kernel wants it.
Tensor rows_of(const Bf16Matrix& a) {
  const bool ready = is_half(a.t.dtype()) && a.along_k && a.k == padded_depth(a.k);
  return ready ? a.t : pack_bf16(a, false);
}

void multiply(const char* op, const Bf16Matrix& a, const Bf16Matrix& b, const Tensor& c, const EpilogueSpec& epilogue,
              const Tensor& pre) {
  if (c.size() == 0) return;
  Bf16GemmArgs g;
  g.dtype = c.dtype();
  g.m = a.rows;
  g.n = b.rows;
  g.k = padded_depth(a.k);
  g.activation = epilogue.activation;
  const int64_t items = ceil_div(g.m, kBf16Strip) * ceil_div(g.n, kBf16Columns);
  const double macs = static_cast<double>(c.size()) * static_cast<double>(g.k + 8);
  const auto kernel = a.t.dtype() == DType::kFloat16 ? &KernelTable::gemm_f16 : &KernelTable::gemm_bf16;
  launch(op, kernel, g,
         {items, bf16_mac_ns(macs) / static_cast<double>(items), 2.0 * static_cast<double>(c.size() * a.k)},
         {read(&Bf16GemmArgs::a, rows_of(a)), read(&Bf16GemmArgs::b, bf16_columns(b)),
          read<Bf16GemmArgs>(&Bf16GemmArgs::bias, epilogue.bias),
          read<Bf16GemmArgs>(&Bf16GemmArgs::residual, epilogue.residual), write<Bf16GemmArgs>(&Bf16GemmArgs::pre, pre),
          write(&Bf16GemmArgs::c, c)});
}

void check_operand(const char* op, const char* what, const Tensor& t) {
  check<DTypeError>(t.dtype() == DType::kFloat32 || t.dtype() == DType::kBFloat16, op, what,
                    " must be float32 or bfloat16 for a product in bfloat16, is ", name(t.dtype()), "; cast it");
}

Tensor widened(const Tensor& t) { return t.defined() ? cast(t, DType::kFloat32) : t; }
Tensor rounded(const Tensor& t) { return cast(t, DType::kFloat16); }

// A product of float16 where no kernel has it: separate ops, in float32, whose results are rounded.
OutputAndPre multiply_widened(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  EpilogueSpec sums;
  sums.bias = widened(epilogue.bias);
  Tensor v = rounded(linear_widened(widened(x), weight, sums).first);
  if (epilogue.residual.defined())
    v = rounded(binary("linear", BinaryOp::kAdd, widened(v), widened(epilogue.residual)));
  constexpr UnaryOp kFunctions[] = {UnaryOp::kCopy, UnaryOp::kRelu, UnaryOp::kTanh,  UnaryOp::kSigmoid,
                                    UnaryOp::kGelu, UnaryOp::kSilu, UnaryOp::kRelu6, UnaryOp::kHardswish};
  const UnaryOp function = kFunctions[static_cast<size_t>(epilogue.activation)];  // in the order of Activation
  const Tensor y = function == UnaryOp::kCopy ? v : rounded(unary("linear", function, widened(v)));
  return {y, epilogue.save_pre ? v : Tensor()};
}

OutputAndPre multiply_rows(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  check<DTypeError>(weight.dtype() == x.dtype(), "linear", "x is ", name(x.dtype()), ", weight is ",
                    name(weight.dtype()), "; cast one of them");
  const Shape shape = linear_shape(x, weight);
  check_epilogue("linear", epilogue, x.dtype(), shape);
  if (x.dtype() == DType::kFloat16 && !has_kernel(&KernelTable::gemm_f16, x.device()))
    return multiply_widened(x, weight, epilogue);
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  const Tensor pre = epilogue.save_pre ? Tensor::empty(x.dtype(), shape, x.device()) : Tensor();
  const int64_t m = y.size() == 0 ? 0 : y.size() / weight.dim(0);
  multiply("linear", {x, m, weight.dim(1), true}, {weight, weight.dim(0), weight.dim(1), true}, y, epilogue, pre);
  return {y, pre};
}

}  // namespace

Tensor pack_bf16(const Bf16Matrix& m, bool as_columns) {
  const int64_t rows = as_columns ? ceil_div(m.rows, kBf16Group) * kBf16Group : m.rows;
  const Tensor dst =
      Tensor::empty(is_half(m.t.dtype()) ? m.t.dtype() : DType::kBFloat16, {rows, padded_depth(m.k)}, m.t.device());
  if (dst.size() == 0) return dst;
  Bf16PackArgs args;
  args.dtype = m.t.dtype();
  args.as_columns = as_columns;
  args.rows = m.rows;
  args.k = m.k;
  args.src_row = m.along_k ? m.k : 1;
  args.src_k = m.along_k ? 1 : m.rows;
  launch("pack", &KernelTable::pack_bf16, args,
         {ceil_div(m.rows, kBf16Group), 0.1 * static_cast<double>(kBf16Group * padded_depth(m.k))},
         {read(&Bf16PackArgs::src, m.t), write(&Bf16PackArgs::dst, dst)});
  return dst;
}

Tensor bf16_columns(const Bf16Matrix& m) {
  return derived(m.t, m.along_k ? "bf16_columns" : "bf16_rows", [&] { return pack_bf16(m, true); });
}

OutputAndPre linear_bf16(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  check_operand("linear", "x", x);
  return multiply_rows(x, weight, epilogue);
}

OutputAndPre linear_f16(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  check<DTypeError>(x.dtype() == DType::kFloat16, "linear", "x must be float16, is ", name(x.dtype()));
  return multiply_rows(x, weight, epilogue);
}

Tensor matmul_bf16(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  check_operand("matmul", "a", a);
  check_operand("matmul", "b", b);
  check<ShapeError>(a.rank() == 2 && b.rank() == 2, "matmul", "products in bfloat16 take matrices, got a ", a.shape(),
                    " and b ", b.shape());
  const int64_t m = a.dim(transpose_a ? 1 : 0), k = a.dim(transpose_a ? 0 : 1), n = b.dim(transpose_b ? 0 : 1);
  check<ShapeError>(b.dim(transpose_b ? 1 : 0) == k, "matmul", "a has ", k, " columns, b has ",
                    b.dim(transpose_b ? 1 : 0), " rows (a: ", a.shape(), transpose_a ? " transposed" : "",
                    ", b: ", b.shape(), transpose_b ? " transposed" : "", ")");
  const Tensor c = Tensor::empty(DType::kFloat32, {m, n}, a.device());
  multiply("matmul", {a, m, k, !transpose_a}, {b, n, k, transpose_b}, c, {}, {});
  return c;
}

}  // namespace quernel::ops
