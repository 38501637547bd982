#include "ops/matmul.h"

#include <algorithm>
#include <array>
#include <string>

#include "core/error.h"
#include "runtime/derived.h"

namespace quernel::ops {
namespace {

// Plain rows of B are as fast as panels while B fits beside A in L2, and packing must be earned by enough rows.
constexpr int64_t kInPlaceBytes = 512 * 1024;
constexpr int64_t kInPlaceRows = 64;
constexpr int64_t kStripRows = 48;
constexpr double kItemNs = 30e3;
constexpr int64_t kBusyItems = 8;  // enough for any balance on few cores

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows an item takes: many, to reuse B, unless items would be few or long.
int64_t strip_rows(const GemmArgs& g, int64_t batch, DType dtype) {
  int64_t strip = kStripRows;
  const int64_t panels = batch * ceil_div(g.n, kPanel);
  const auto item_ns = [&] { return mac_ns(dtype, static_cast<double>(strip * std::min(g.n, kPanel) * g.k)); };
  while (strip > 12 && (item_ns() > kItemNs || (panels * ceil_div(g.m, strip) < kBusyItems && item_ns() > kItemNs / 4)))
    strip /= 2;
  return strip;
}

void launch_gemm(const char* op, GemmArgs g, const Tensor& a, const Tensor& b, const Tensor& c,
                 const EpilogueSpec& epilogue, const Tensor& pre) {
  if (c.size() == 0) return;
  const int64_t batch = c.size() / (g.m * g.n);
  g.activation = epilogue.activation;
  g.strip = strip_rows(g, batch, c.dtype());
  const int64_t items = batch * ceil_div(g.n, kPanel) * ceil_div(g.m, g.strip);
  const double macs = static_cast<double>(c.size()) * static_cast<double>(g.k + 8);
  launch(op, c.dtype() == DType::kFloat32 ? &KernelTable::gemm_f32 : &KernelTable::gemm_f64, g,
         {items, mac_ns(c.dtype(), macs / static_cast<double>(items)), 2.0 * static_cast<double>(c.size() * g.k)},
         {read(&GemmArgs::a, a), read(&GemmArgs::b, b), read<GemmArgs>(&GemmArgs::bias, epilogue.bias),
          read<GemmArgs>(&GemmArgs::residual, epilogue.residual), write<GemmArgs>(&GemmArgs::pre, pre),
          write(&GemmArgs::c, c)});
}

// An operand as a stack of matrices: 1-D operands have become a row (a) or a column (b).
struct Matrices {
  int64_t rows, cols;  // after transposing
  bool transposed;     // stored (cols, rows)
  Shape batch;
  int64_t count() const { return batch.volume(); }
};

Matrices as_matrices(const Tensor& t, bool transposed, bool is_left) {
  if (t.rank() == 1) return {is_left ? 1 : t.dim(0), is_left ? t.dim(0) : 1, false, Shape{}};
  const Shape batch(t.shape().dims().first(t.rank() - 2));
  return transposed ? Matrices{t.dim(-1), t.dim(-2), true, batch} : Matrices{t.dim(-2), t.dim(-1), false, batch};
}

// Strides of `batch` seen as the broadcast shape `full`, in units of one matrix.
std::array<int64_t, kMaxRank> batch_strides(const Shape& batch, const Shape& full) {
  std::array<int64_t, kMaxRank> strides{};
  int64_t stride = 1;
  for (int d = batch.rank() - 1; d >= 0; --d) {
    if (batch[d] != 1) strides[static_cast<size_t>(d + full.rank() - batch.rank())] = stride;
    stride *= batch[d];
  }
  return strides;
}

// Merges neighbouring batch dimensions that both operands walk evenly.
void set_batch(GemmArgs& g, const Matrices& a, const Matrices& b, const Shape& full, int64_t b_matrix) {
  const auto a_strides = batch_strides(a.batch, full), b_strides = batch_strides(b.batch, full);
  int rank = 0;
  for (int d = 0; d < full.rank(); ++d) {
    if (full[d] == 1) continue;
    const int64_t sa = a_strides[static_cast<size_t>(d)] * a.rows * a.cols;
    const int64_t sb = b_strides[static_cast<size_t>(d)] * b_matrix;
    if (rank > 0 && g.a_batch[rank - 1] == sa * full[d] && g.b_batch[rank - 1] == sb * full[d]) {
      g.batch_dims[rank - 1] *= full[d];
      g.a_batch[rank - 1] = sa;
      g.b_batch[rank - 1] = sb;
    } else {
      g.batch_dims[rank] = full[d];
      g.a_batch[rank] = sa;
      g.b_batch[rank++] = sb;
    }
  }
  g.batch_rank = rank;
}

// The product's shape: the batch, then rows unless a was 1-D, columns unless b was.
Shape product_shape(const Shape& batch, const Tensor& a, const Tensor& b, int64_t m, int64_t n) {
  std::array<int64_t, kMaxRank> dims{};
  auto end = std::copy(batch.begin(), batch.end(), dims.begin());
  if (a.rank() > 1) *end++ = m;
  if (b.rank() > 1) *end++ = n;
  return Shape(std::span(dims.begin(), end));
}

}  // namespace

double mac_ns(DType dtype, double macs) { return macs / (dtype == DType::kFloat32 ? 50 : 25); }

int64_t packed_columns(DType dtype, int64_t n) {
  const int64_t width = kPackBytes / static_cast<int64_t>(itemsize(dtype));
  return ceil_div(n, width) * width;
}

Tensor pack_matrix(const Tensor& b, int64_t batch, int64_t k, int64_t n, bool transposed) {
  const std::string kind = (transposed ? "pack_columns/" : "pack_rows/") + std::to_string(batch);
  return derived(b, kind.c_str(), [&] {
    const int64_t panels = ceil_div(n, kPanel);
    const Tensor packed = Tensor::empty(b.dtype(), {batch, packed_columns(b.dtype(), n) * k});
    PackArgs args;
    args.k = k;
    args.n = n;
    args.src_row = transposed ? 1 : n;
    args.src_col = transposed ? k : 1;
    args.batch = batch;
    args.src_batch = n * k;
    args.dst_batch = packed.dim(1);
    if (packed.size() > 0)
      launch("pack", b.dtype() == DType::kFloat32 ? &KernelTable::pack_f32 : &KernelTable::pack_f64, args,
             {batch * panels, 0.2 * static_cast<double>(k * kPanel)},
             {read(&PackArgs::src, b), write(&PackArgs::dst, packed)});
    return packed;
  });
}

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  check_floating("matmul", "a", a, "b", b);
  check<ShapeError>(a.rank() > 0 && b.rank() > 0, "matmul", "operands need at least one dimension, got a ", a.shape(),
                    " and b ", b.shape(), "; use mul for scalars");
  const Matrices ma = as_matrices(a, transpose_a, true), mb = as_matrices(b, transpose_b, false);
  check<ShapeError>(ma.cols == mb.rows, "matmul", "a has ", ma.cols, " columns, b has ", mb.rows,
                    " rows (a: ", a.shape(), transpose_a ? " transposed" : "", ", b: ", b.shape(),
                    transpose_b ? " transposed" : "", ")");
  const Shape batch = broadcast("matmul", ma.batch, mb.batch);
  const Tensor c = Tensor::empty(a.dtype(), product_shape(batch, a, b, ma.rows, mb.cols));
  if (c.size() == 0) return c;

  GemmArgs g;
  g.m = ma.rows;
  g.n = mb.cols;
  g.k = ma.cols;
  g.a_row = ma.transposed ? 1 : g.k;
  g.a_col = ma.transposed ? g.m : 1;
  // One matrix b for a stack of plain a: the stack is one tall matrix.
  const bool tall = mb.count() == 1 && ma.count() == batch.volume() && !ma.transposed;
  if (tall) g.m *= ma.count();
  const bool in_place = !mb.transposed && (g.k * g.n * static_cast<int64_t>(itemsize(b.dtype())) <= kInPlaceBytes ||
                                           g.m * batch.volume() < kInPlaceRows * mb.count());
  const Tensor rows = in_place ? b : pack_matrix(b, mb.count(), g.k, g.n, mb.transposed);
  const int64_t width = kPackBytes / static_cast<int64_t>(itemsize(b.dtype()));
  g.ldb = in_place ? g.n : width;
  g.group = in_place ? width : g.k * width;
  if (!tall) set_batch(g, ma, mb, batch, g.k * (in_place ? g.n : packed_columns(b.dtype(), g.n)));
  launch_gemm("matmul", g, a, rows, c, {}, {});
  return c;
}

OutputAndPre linear(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  check_floating("linear", "x", x, "weight", weight);
  check<ShapeError>(weight.rank() == 2, "linear", "weight must be (out, in), got ", weight.shape());
  check<ShapeError>(x.rank() > 0 && x.shape()[-1] == weight.dim(1), "linear", "weight expects ", weight.dim(1),
                    " input features, x has ", x.rank() > 0 ? x.shape()[-1] : 0, " (x: ", x.shape(),
                    ", weight: ", weight.shape(), ")");
  const Shape shape = x.shape().with(x.rank() - 1, weight.dim(0));
  check_epilogue("linear", epilogue, x.dtype(), shape);
  const Tensor y = Tensor::empty(x.dtype(), shape);
  const Tensor pre = epilogue.save_pre ? Tensor::empty(x.dtype(), shape) : Tensor();
  if (y.size() == 0) return {y, pre};
  GemmArgs g;
  g.n = weight.dim(0);
  g.k = weight.dim(1);
  g.m = y.size() / g.n;
  g.a_row = g.k;
  g.ldb = kPackBytes / static_cast<int64_t>(itemsize(x.dtype()));
  g.group = g.k * g.ldb;
  launch_gemm("linear", g, x, pack_matrix(weight, 1, g.k, g.n, true), y, epilogue, pre);
  return {y, pre};
}

}  // namespace quernel::ops
