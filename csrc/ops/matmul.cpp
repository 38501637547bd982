#include "ops/matmul.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "core/error.h"
#include "kernels/args/matmul_narrow.h"
#include "ops/common.h"
#include "ops/elementwise.h"
#include "runtime/derived.h"

namespace quernel::ops {
namespace {

// Plain rows of B are as fast as packed ones while B fits beside A in L2, and packing must be earned by enough rows.
constexpr int64_t kInPlaceBytes = 192 * 1024;
constexpr int64_t kInPlaceRows = 40;
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kInPlaceFarRows = 16;     // where rows of B are so long that each begins another page,
constexpr int64_t kInPlaceAliasedRows = 3;  // or whole pages, so that all lie in the same sets of L1
constexpr int64_t kInPlacePanelRows = 64;   // where there is one panel
constexpr int64_t kPackInItems = 256;       // at most so many rows; more than one strip would pack every panel again
constexpr int64_t kPackRows = 6;            // packing costs as much as so many rows of the product
constexpr int64_t kStripRows = 48;
constexpr int64_t kStripColumn = 384;    // of a narrow product, whose A is stored by columns
constexpr int64_t kLeastStripRows = 12;  // whole register tiles at every level
constexpr double kItemNs = 30e3;
constexpr double kManyItems = 64;           // so many may last longer than kItemNs
constexpr int64_t kRowSpan = 32;            // panels of a single row: B is read in stretches of 8 KB
constexpr int64_t kNearBytes = 2 << 20;     // of L3: more may be as slow as memory where others use it, too
constexpr int64_t kColumnsSpan = 8;         // panels for which rows of A are packed once
constexpr int64_t kShortBytes = 16 * 1024;  // of B, which stays in L1
constexpr int64_t kMostSplits = 64;         // of the sums of a weight's gradient
constexpr int64_t kSkipDepth = 64;          // zeros of a row are counted if it is as long,
constexpr int64_t kSkipMostDepth = 16384;   // if their list stays in cache,
constexpr int64_t kSkipColumns = 128;       // and if so many columns make little of the time that it takes

// Columns that take as long as g's: to read a row of A takes as long as some products.
int64_t columns(const GemmArgs& g) { return is_narrow(g) ? kNarrowColumns : g.n; }

// Panels that rows of A meet while they are in L2: as many as stay in L3, for every strip reads them again. Where all
// of A stays there, it may as well pass once for each panel. Fitted at 1024^3 and 2048^3: 1 and 2 MB differ by 2 %.
int64_t near_panels(const GemmArgs& g, DType dtype) {
  const int64_t row = g.k * static_cast<int64_t>(itemsize(dtype));
  return g.m * row <= kNearBytes ? 1 : std::max<int64_t>(1, kNearBytes / (kPanel * row));
}

// Panels an item takes.
int64_t span_panels(const GemmArgs& g, int64_t panels, DType dtype) {
  if (g.pack) return 1;
  if (g.k <= kShortDepth)
    return std::max<int64_t>(
        1, kShortBytes / (kPanel * static_cast<int64_t>(itemsize(dtype)) * std::max<int64_t>(g.k, 1)));
  const int64_t most = g.a_col != 1 ? kColumnsSpan : g.m == 1 ? (g.b_row == g.n ? kRowSpan : 1) : near_panels(g, dtype);
  return ceil_div(panels, ceil_div(panels, most));
}

// Rows an item takes: many, to reuse B, unless items would be few or long.
int64_t strip_rows(const GemmArgs& g, int64_t spans, DType dtype) {
  if (g.pack && !is_narrow(g)) return g.m;
  int64_t strip = is_narrow(g) && g.a_col != 1 ? kStripColumn : kStripRows;
  const double row_ns = mac_ns(dtype, static_cast<double>(std::min(columns(g), g.span * kPanel) * g.k));
  const double most_ns = std::max(kItemNs, row_ns * static_cast<double>(g.m * spans) / kManyItems);
  const auto item_ns = [&] { return row_ns * static_cast<double>(strip); };
  while (strip > kLeastStripRows &&
         (item_ns() > most_ns || (spans * ceil_div(g.m, strip) < kBusyItems && item_ns() > kItemNs / 4)))
    strip /= 2;
  const int64_t even = ceil_div(g.m, ceil_div(g.m, strip));
  return std::min(strip, ceil_div(even, kLeastStripRows) * kLeastStripRows);
}

void launch_gemm(const char* op, GemmArgs g, const Tensor& a, const Tensor& b, const Tensor& c,
                 const EpilogueSpec& epilogue, const Tensor& pre) {
  if (c.size() == 0) return;
  const int64_t batch = c.size() / (g.m * g.n);
  g.activation = epilogue.activation;
  g.span = span_panels(g, ceil_div(g.n, kPanel), c.dtype());
  const int64_t spans = batch * ceil_div(g.n, g.span * kPanel);
  g.strip = strip_rows(g, spans, c.dtype());
  const int64_t items = spans * ceil_div(g.m, g.strip);
  const int64_t rows = batch * (g.m + (g.pack ? kPackRows : 0));
  const double macs = static_cast<double>(rows * columns(g)) * static_cast<double>(g.k + 8);
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

// float16 B as it is multiplied here: float32.
Tensor widened(const Tensor& b) { return b.dtype() == DType::kFloat16 ? cast(b, DType::kFloat32) : b; }
DType widened(DType dtype) { return dtype == DType::kFloat16 ? DType::kFloat32 : dtype; }

// B read as it lies. A constant is widened once.
Tensor in_place(const Tensor& b) {
  return b.dtype() == DType::kFloat16 ? derived(b, "widened", [&] { return widened(b); }) : b;
}

template <class T>
bool all_finite(const Tensor& t) {
  const auto* p = reinterpret_cast<const T*>(t.data());
  return std::all_of(p, p + t.size(), [](T x) { return std::isfinite(x); });
}

// Whether a single row of A may leave out its zeros: B, a constant, has no elements of which 0 times makes NaN. It is
// found whatever the rows: plans of all batch sizes share what is kept.
bool may_skip_zeros(const GemmArgs& g, const Tensor& b) {
  if (b.size() != g.n * g.k || g.n < kSkipColumns || g.k < kSkipDepth || g.k > kSkipMostDepth ||
      b.device() != Device::kCpu)
    return false;
  const Tensor finite = derived(b, "finite", [&] {
    Tensor flag = Tensor::empty(DType::kBool, {1}, b.device());
    const Tensor seen = widened(b);
    *reinterpret_cast<bool*>(flag.data()) =
        seen.dtype() == DType::kFloat32 ? all_finite<float>(seen) : all_finite<double>(seen);
    return flag;
  });
  return g.m == 1 && *reinterpret_cast<const bool*>(finite.data());
}

// Chooses how items read B, of which there are `count` matrices, stored (n, k) if `transposed`; `rows` rows of A meet
// each. Returns what they read: B, or B packed.
Tensor place_right(GemmArgs& g, const Tensor& b, int64_t count, bool transposed, int64_t rows) {
  const DType dtype = widened(b.dtype());
  const auto size = static_cast<int64_t>(itemsize(dtype));
  const int64_t width = kPackBytes / size;
  if (is_narrow(g)) {
    g.pack = true;
    g.b_row = transposed ? 1 : g.n;
    g.b_col = transposed ? g.k : 1;
    return in_place(b);
  }
  const bool kept = keeps_derived(b);
  const int64_t row = g.n * size, few = row % kPageBytes == 0 ? kInPlaceAliasedRows
                                        : row > kPageBytes    ? kInPlaceFarRows
                                        : g.n <= kPanel       ? kInPlacePanelRows
                                                              : kInPlaceRows;
  if (!kept && !transposed && (rows <= few || g.k <= kShortDepth || g.k * row <= kInPlaceBytes)) {
    g.b_row = g.n;
    g.group = width;
    return in_place(b);
  }
  const bool spread = g.n > 3 * kPanel || mac_ns(dtype, static_cast<double>(rows * g.n * g.k)) < kItemNs;
  const bool shared = g.a_col != 1 && g.n > kPanel;  // rows of A are packed for several panels instead
  if (!kept && rows == g.m && rows <= kPackInItems && g.k > kShortDepth && spread && !shared) {
    g.pack = true;
    g.b_row = transposed ? 1 : g.n;
    g.b_col = transposed ? g.k : 1;
    return in_place(b);
  }
  g.b_row = width;
  g.group = width * g.k;
  g.skip_zeros = kept && rows == 1 && may_skip_zeros(g, b);
  return pack_matrix(b, count, g.k, g.n, transposed);
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
    const Tensor source = widened(b);
    const DType dtype = source.dtype();
    const Tensor packed = Tensor::empty(dtype, {batch, packed_columns(dtype, n) * k}, b.device());
    PackArgs args;
    args.k = k;
    args.n = n;
    args.src_row = transposed ? 1 : n;
    args.src_col = transposed ? k : 1;
    args.batch = batch;
    args.src_batch = n * k;
    args.dst_batch = packed.dim(1);
    if (packed.size() > 0)
      launch("pack", dtype == DType::kFloat32 ? &KernelTable::pack_f32 : &KernelTable::pack_f64, args,
             {batch * panels, 0.2 * static_cast<double>(k * kPanel)},
             {read(&PackArgs::src, source), write(&PackArgs::dst, packed)});
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
  const Tensor c = Tensor::empty(a.dtype(), product_shape(batch, a, b, ma.rows, mb.cols), a.device());
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
  const Tensor right = place_right(g, b, mb.count(), mb.transposed, c.size() / g.n / mb.count());
  if (!tall) set_batch(g, ma, mb, batch, right.size() / mb.count());
  launch_gemm("matmul", g, a, right, c, {}, {});
  return c;
}

// Where there is a kernel for it, on CUDA: a weight has few results for its gradient, which would keep few
// multiprocessors busy, each with all of the batch. Its sums have parts, added up in order: how many depends on the
// batch, and whether there are any on that and the weight's shape.
Tensor linear_grad_weight(const Tensor& g, const Tensor& x) {
  const int64_t rows = g.dim(0), n = g.dim(1), k = x.dim(1);
  if (!has_kernel(&KernelTable::param_grads_f32, g.device()) || g.dtype() != DType::kFloat32 ||
      x.dtype() != g.dtype() || x.dim(0) != rows || rows <= kGradPart || n * k > kGradResults || n * k == 0)
    return matmul(g, x, true, false);
  ParamGradsArgs args;
  args.rows = rows;
  args.split = std::max(kGradPart, ceil_div(rows, kMostSplits));
  args.grads = 1;
  args.grad[0].n = static_cast<int32_t>(n);
  args.grad[0].k = static_cast<int32_t>(k);
  const Tensor parts = Tensor::empty(g.dtype(), {ceil_div(rows, args.split), n, k}, g.device());
  const Tensor y = Tensor::empty(g.dtype(), {n, k}, g.device());
  const uint32_t grad = field_offset(&ParamGradsArgs::grad);
  const double macs = static_cast<double>(n * k) * static_cast<double>(rows);
  launch("matmul", &KernelTable::param_grads_f32, args, {1, mac_ns(g.dtype(), macs), 2 * macs},
         {Operand{&g, grad + field_offset(&ParamGrad::g), Access::kRead},
          Operand{&x, grad + field_offset(&ParamGrad::x), Access::kRead},
          Operand{&parts, grad + field_offset(&ParamGrad::parts), Access::kWrite},
          Operand{&y, grad + field_offset(&ParamGrad::y), Access::kWrite}});
  return y;
}

Shape linear_shape(const Tensor& x, const Tensor& weight) {
  check<ShapeError>(weight.rank() == 2, "linear", "weight must be (out, in), got ", weight.shape());
  check<ShapeError>(x.rank() > 0 && x.shape()[-1] == weight.dim(1), "linear", "weight expects ", weight.dim(1),
                    " input features, x has ", x.rank() > 0 ? x.shape()[-1] : 0, " (x: ", x.shape(),
                    ", weight: ", weight.shape(), ")");
  return x.shape().with(x.rank() - 1, weight.dim(0));
}

OutputAndPre linear(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  check_floating("linear", "x", x, "weight", weight);
  return linear_widened(x, weight, epilogue);
}

OutputAndPre linear_widened(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue) {
  const Shape shape = linear_shape(x, weight);
  check_epilogue("linear", epilogue, x.dtype(), shape);
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  const Tensor pre = epilogue.save_pre ? Tensor::empty(x.dtype(), shape, x.device()) : Tensor();
  if (y.size() == 0) return {y, pre};
  GemmArgs g;
  g.n = weight.dim(0);
  g.k = weight.dim(1);
  g.m = y.size() / g.n;
  g.a_row = g.k;
  const Tensor right = place_right(g, weight, 1, true, g.m);
  launch_gemm("linear", g, x, right, y, epilogue, pre);
  return {y, pre};
}

}  // namespace quernel::ops
