#include "ops/sparse.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "ops/common.h"
#include "ops/layout.h"
#include "runtime/derived.h"
#include "runtime/recorder.h"

namespace quernel::ops {
namespace {

// Columns that one index stands for, and rows that one pointer does.
int64_t depth_of(const Sparse& a) { return a.is_blocked() ? a.values.dim(2) : 1; }
int64_t units_of(const Sparse& a) { return a.is_blocked() ? ceil_div(a.rows, kSparseRows) : a.rows; }

// That the parts fit each other; their numbers are another matter.
void check_parts(const char* op, const Sparse& a) {
  const Tensor &values = a.values, &indices = a.indices, &indptr = a.indptr;
  // Before anything looks at the places on the host.
  for (const Tensor* part : {&values, &indices, &indptr})
    check<DeviceError>(part->device() == Device::kCpu, op,
                       "sparse tensors have no CUDA kernels in this version; move them to the CPU with .to('cpu')");
  check<ShapeError>(a.rows >= 0 && a.cols >= 0 && a.rows <= std::numeric_limits<int32_t>::max() &&
                        a.cols <= std::numeric_limits<int32_t>::max() &&
                        values.size() <= std::numeric_limits<int32_t>::max(),
                    op, "a sparse matrix has at most 2^31 - 1 rows, columns and values, not (", a.rows, ", ", a.cols,
                    ") and ", values.size());
  check<DTypeError>(indices.dtype() == DType::kInt32 && indptr.dtype() == DType::kInt32, op,
                    "indices and indptr must be int32, are ", name(indices.dtype()), " and ", name(indptr.dtype()));
  const bool fits =
      a.source.defined() || (indices.rank() == 1 && values.rank() != 0 && values.dim(0) == indices.size() &&
                             (values.rank() == 1 || (values.rank() == 3 && values.dim(1) == kSparseRows &&
                                                     (values.dim(2) == 1 || values.dim(2) == 4))));
  check<ShapeError>(fits, op, "values must be (entries,) or (blocks, 16, 1 or 4), one for each index; got values ",
                    values.shape(), ", indices ", indices.shape());
  check<ShapeError>(indptr.shape() == Shape{units_of(a) + 1}, op, "indptr must have ", units_of(a) + 1, " entries for ",
                    a.rows, a.is_blocked() ? " rows in panels of 16" : " rows", ", got ", indptr.shape());
}

// The values as the kernels for panels read them, (blocks, depth, 16).
Tensor panel_values(const Sparse& a) {
  if (depth_of(a) == 1) return a.values;
  return derived(a.values, "sparse_panels", [&] { return transpose(a.values, {0, 2, 1}); });
}

// Nanoseconds of the FMAs of `entries` entries with n columns, on average fetched from L2.
double entries_ns(int64_t entries, int64_t n, DType dtype) {
  const double registers = static_cast<double>(ceil_div(n, dtype == DType::kFloat32 ? 16 : 8));
  return static_cast<double>(entries) * (n == 1 ? 0.35 : 0.2 + 0.35 * registers);
}

SparseArgs rows_args(const Sparse& a, DType dtype, int64_t n) {
  SparseArgs args;
  args.dtype = dtype;
  args.rows = a.rows;
  args.cols = a.cols;
  args.n = n;
  return args;
}

void launch_rows(const char* op, const SparseArgs& args, const Sparse& a, const Tensor& x, const Tensor& y,
                 const EpilogueSpec& epilogue, const Tensor& pre) {
  const int64_t items = ceil_div(args.rows, kSparseRows) * (args.n == 1 ? 1 : ceil_div(args.n, args.lanes));
  launch(
      op, &KernelTable::sparse_rows, args,
      {items, (entries_ns(a.indices.size(), args.n, args.dtype) + 20.0 * static_cast<double>(items)) /
                  static_cast<double>(items)},
      {read(&SparseArgs::values, a.values), read(&SparseArgs::indices, a.indices), read(&SparseArgs::indptr, a.indptr),
       read(&SparseArgs::source, a.source), read(&SparseArgs::x, x), read<SparseArgs>(&SparseArgs::bias, epilogue.bias),
       read<SparseArgs>(&SparseArgs::residual, epilogue.residual), write<SparseArgs>(&SparseArgs::pre, pre),
       write(&SparseArgs::y, y)});
}

// The layout for one x (kernels/args/sparse.h). What it takes to make pays only if it is kept.
struct Lanes {
  Tensor panels, values, indices;
};

Tensor lane_panels(const Sparse& a) {
  const auto* indptr = reinterpret_cast<const int32_t*>(a.indptr.data());
  const int64_t count = ceil_div(a.rows, kSparseRows);
  const Tensor made =
      Tensor::empty(DType::kInt32, {count, static_cast<int64_t>(sizeof(LanePanel) / sizeof(int32_t))}, Device::kCpu);
  auto* panels = reinterpret_cast<LanePanel*>(made.data());
  int32_t step = 0;
  for (int64_t window = 0; window < a.rows; window += kLaneWindow) {
    const auto length = [&](int32_t place) {
      const int64_t row = window + place;
      return row < a.rows ? indptr[row + 1] - indptr[row] : 0;
    };
    const int64_t padded = std::min(kLaneWindow, count * kSparseRows - window);
    std::vector<int32_t> order(static_cast<size_t>(padded));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return length(i) > length(j); });
    for (int64_t i = 0; i < padded; ++i) {
      LanePanel& panel = panels[(window + i) / kSparseRows];
      const int32_t place = order[static_cast<size_t>(i)];
      if (i % kSparseRows == 0) {
        panel.first = step;
        step += length(place);
      }
      panel.length[i % kSparseRows] = length(place);
      panel.place[i % kSparseRows] = place;
    }
  }
  made.storage()->mark_from_host();
  return made;
}

// Entries of CSR, values or indices, in lanes; zeros where a row has ended.
Tensor in_lanes(const Sparse& a, const Tensor& panels_of, const Tensor& entries) {
  const auto* indptr = reinterpret_cast<const int32_t*>(a.indptr.data());
  const auto* panels = reinterpret_cast<const LanePanel*>(panels_of.data());
  const int64_t count = panels_of.dim(0), size = static_cast<int64_t>(itemsize(entries.dtype()));
  const LanePanel& last = panels[count - 1];
  const Tensor made = Tensor::empty(entries.dtype(), {last.first + last.length[0], kSparseRows}, entries.device());
  std::memset(made.data(), 0, made.nbytes());
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t lane = 0; lane < kSparseRows; ++lane) {
      const int64_t window = p * kSparseRows / kLaneWindow * kLaneWindow;
      for (int64_t t = 0; t < panels[p].length[lane]; ++t)
        std::memcpy(made.data() + ((panels[p].first + t) * kSparseRows + lane) * size,
                    entries.data() + (indptr[window + panels[p].place[lane]] + t) * size, static_cast<size_t>(size));
    }
  }
  made.storage()->mark_from_host();
  return made;
}

// The lanes of a matrix that never changes, as a frozen model's.
std::optional<Lanes> kept_lanes(const Sparse& a) {
  const Recorder* recorder = Recorder::current();
  if (!recorder || !recorder->constants() || a.source.defined() || !recorder->is_constant(a.indptr) ||
      !recorder->is_constant(a.indices) || !recorder->is_constant(a.values))
    return std::nullopt;
  const Tensor panels = derived(a.indptr, "sparse_lanes", [&] { return lane_panels(a); });
  // Matrices may share values, but not with other places.
  std::ostringstream kind;
  kind << "sparse_lanes " << panels.identity();
  const auto lanes = [&](const Tensor& entries) {
    return derived(entries, kind.str().c_str(), [&] { return in_lanes(a, panels, entries); });
  };
  return Lanes{panels, lanes(a.values), lanes(a.indices)};
}

void launch_lanes(const char* op, const Sparse& a, const Lanes& lanes, const Tensor& x, const Tensor& y,
                  const EpilogueSpec& epilogue, const Tensor& pre) {
  SparseLanesArgs args;
  args.activation = epilogue.activation;
  args.dtype = x.dtype();
  args.rows = a.rows;
  const int64_t items = ceil_div(a.rows, kLaneWindow);
  const double ns = entries_ns(a.indices.size(), 1, args.dtype) + 100.0 * static_cast<double>(items);
  launch(op, &KernelTable::sparse_lanes, args, {items, ns / static_cast<double>(items)},
         {read(&SparseLanesArgs::values, lanes.values), read(&SparseLanesArgs::indices, lanes.indices),
          read(&SparseLanesArgs::panels, lanes.panels), read(&SparseLanesArgs::x, x),
          read<SparseLanesArgs>(&SparseLanesArgs::bias, epilogue.bias),
          read<SparseLanesArgs>(&SparseLanesArgs::residual, epilogue.residual),
          write<SparseLanesArgs>(&SparseLanesArgs::pre, pre), write(&SparseLanesArgs::y, y)});
}

SparsePanelArgs panel_args(const Sparse& a, DType dtype, int64_t n, Activation activation) {
  SparsePanelArgs args;
  args.activation = activation;
  args.dtype = dtype;
  args.depth = static_cast<int32_t>(depth_of(a));
  args.rows = a.rows;
  args.cols = a.cols;
  args.n = n;
  return args;
}

void launch_panels(const char* op, Kernel<SparsePanelArgs> KernelTable::* kernel, const SparsePanelArgs& args,
                   int64_t items, const Sparse& a, const Tensor& x, const Tensor& y, const EpilogueSpec& epilogue,
                   const Tensor& pre) {
  // One FMA of 16 lanes takes a cycle; of a single column, its weights' way from L2 two.
  const double fmas = static_cast<double>(a.indices.size() * depth_of(a)) * static_cast<double>(args.n + 1);
  const double ns = (args.dtype == DType::kFloat32 ? 0.3 : 0.6) * fmas + 50.0 * static_cast<double>(items);
  launch(op, kernel, args, {items, ns / static_cast<double>(items)},
         {read(&SparsePanelArgs::values, panel_values(a)), read(&SparsePanelArgs::indices, a.indices),
          read(&SparsePanelArgs::indptr, a.indptr), read(&SparsePanelArgs::x, x),
          read<SparsePanelArgs>(&SparsePanelArgs::bias, epilogue.bias),
          read<SparsePanelArgs>(&SparsePanelArgs::residual, epilogue.residual),
          write<SparsePanelArgs>(&SparsePanelArgs::pre, pre), write(&SparsePanelArgs::y, y)});
}

// Columns to a panel for m rows of x: whole registers, shared out evenly.
int64_t lanes_for(int64_t m) {
  const int64_t panels = ceil_div(m, kSparseLanes);
  return ceil_div(ceil_div(m, panels), 16) * 16;
}

Tensor spread(const char* op, const Tensor& x, int64_t m, int64_t k, int64_t lanes) {
  SpreadArgs args;
  args.dtype = x.dtype();
  args.m = m;
  args.k = k;
  args.lanes = lanes;
  const int64_t panels = ceil_div(m, lanes);
  const Tensor y = Tensor::empty(x.dtype(), {panels, k, lanes}, x.device());
  launch(op, &KernelTable::sparse_spread, args,
         {panels * ceil_div(k, kSpreadRows), 0.15 * static_cast<double>(kSpreadRows * lanes)},
         {read(&SpreadArgs::x, x), write(&SpreadArgs::y, y)});
  return y;
}

void check_operands(const char* op, const Sparse& a, const char* x_name, const Tensor& x) {
  check_parts(op, a);
  check_floating(op, x_name, x, "the sparse matrix", a.values);
}

}  // namespace

void check_sparse(const char* op, const Sparse& a) {
  check_parts(op, a);
  CheckSparseArgs args;
  args.rows = units_of(a);
  args.cols = ceil_div(a.cols, depth_of(a));
  args.size = a.indices.size();
  if (args.rows == 0) {
    check<ArgumentError>(args.size == 0, op, "a matrix without rows has ", args.size, " entries");
    return;
  }
  const double entries = static_cast<double>(args.size + args.rows);
  const int64_t items = ceil_div(args.rows, kCheckRows);
  // A frozen model's matrices never change: once, now, and not in each replay.
  Recorder* const recorder = Recorder::current();
  std::optional<Recorder::Pause> pause;
  if (recorder && recorder->constants() && recorder->is_constant(a.indices) && recorder->is_constant(a.indptr))
    pause.emplace();
  launch(op, &KernelTable::check_sparse, args, {items, entries / static_cast<double>(items)},
         {read(&CheckSparseArgs::indices, a.indices), read(&CheckSparseArgs::indptr, a.indptr)});
}

std::tuple<Tensor, Tensor, Tensor> transpose_sparse(const Sparse& a) {
  check_parts("transpose_sparse", a);
  const int64_t depth = depth_of(a), height = a.is_blocked() ? kSparseRows : 1;
  const auto* indptr = reinterpret_cast<const int32_t*>(a.indptr.data());
  const auto* indices = reinterpret_cast<const int32_t*>(a.indices.data());
  // Calls f(row, column, place in values) for every entry, rows ascending.
  const auto for_entries = [&](const auto& f) {
    for (int64_t row = 0; row < a.rows; ++row) {
      for (int64_t i = indptr[row / height]; i < indptr[row / height + 1]; ++i) {
        for (int64_t d = 0; d < depth; ++d) {
          const int64_t column = indices[i] * depth + d;
          if (column < a.cols) f(row, column, (i * height + row % height) * depth + d);
        }
      }
    }
  };
  std::vector<int32_t> next(static_cast<size_t>(a.cols) + 1, 0);
  for_entries([&](int64_t, int64_t column, int64_t) { ++next[static_cast<size_t>(column) + 1]; });
  for (size_t c = 1; c < next.size(); ++c) next[c] += next[c - 1];
  const Tensor out_indptr = Tensor::empty(DType::kInt32, {a.cols + 1}, Device::kCpu);
  const Tensor out_indices = Tensor::empty(DType::kInt32, {next.back()}, Device::kCpu);
  const Tensor source = Tensor::empty(DType::kInt32, {next.back()}, Device::kCpu);
  std::copy(next.begin(), next.end(), reinterpret_cast<int32_t*>(out_indptr.data()));
  for_entries([&](int64_t row, int64_t column, int64_t place) {
    const auto at = static_cast<size_t>(next[static_cast<size_t>(column)]++);
    reinterpret_cast<int32_t*>(out_indices.data())[at] = static_cast<int32_t>(row);
    reinterpret_cast<int32_t*>(source.data())[at] = static_cast<int32_t>(place);
  });
  for (const Tensor& t : {out_indices, out_indptr, source}) t.storage()->mark_from_host();
  return {out_indices, out_indptr, source};
}

Tensor spmm(const Sparse& a, const Tensor& x) {
  const char* op = "spmm";
  check_operands(op, a, "the dense matrix", x);
  check<ShapeError>(x.rank() == 2 && x.dim(0) == a.cols, op, "a has ", a.cols, " columns, the dense matrix is ",
                    x.shape(), " and must be (", a.cols, ", n)");
  const int64_t n = x.dim(1);
  const Tensor y = Tensor::empty(x.dtype(), {a.rows, n}, x.device());
  if (y.size() == 0) return y;
  if (a.is_blocked()) {
    launch_panels(op, &KernelTable::sparse_panel_rows, panel_args(a, x.dtype(), n, Activation::kNone),
                  ceil_div(a.rows, kSparseRows), a, x, y, {}, {});
    return y;
  }
  SparseArgs args = rows_args(a, x.dtype(), n);
  args.ldx = n;
  args.lanes = args.panel_stride = kSparseLanes;
  launch_rows(op, args, a, x, y, {}, {});
  return y;
}

OutputAndPre sparse_linear(const Tensor& x, const Sparse& a, const EpilogueSpec& epilogue) {
  const char* op = "sparse_linear";
  check_operands(op, a, "x", x);
  check<ShapeError>(x.rank() > 0 && x.dim(-1) == a.cols, op, "weight expects ", a.cols, " input features, x has ",
                    x.rank() > 0 ? x.dim(-1) : 0, " (x: ", x.shape(), ", weight: (", a.rows, ", ", a.cols, "))");
  const Shape shape = x.shape().with(x.rank() - 1, a.rows);
  check_epilogue(op, epilogue, x.dtype(), shape);
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  const Tensor pre = epilogue.save_pre ? Tensor::empty(x.dtype(), shape, x.device()) : Tensor();
  if (y.size() == 0) return {y, pre};
  const int64_t m = y.size() / a.rows;
  if (a.is_blocked()) {
    const int64_t items = ceil_div(m, kStripRows) * ceil_div(ceil_div(a.rows, kSparseRows), kPanelGroup);
    launch_panels(op, &KernelTable::sparse_panels, panel_args(a, x.dtype(), m, epilogue.activation), items, a, x, y,
                  epilogue, pre);
    return {y, pre};
  }
  if (const auto lanes = m == 1 ? kept_lanes(a) : std::nullopt) {
    launch_lanes(op, a, *lanes, x, y, epilogue, pre);
    return {y, pre};
  }
  SparseArgs args = rows_args(a, x.dtype(), m);
  args.activation = epilogue.activation;
  args.transposed = true;
  args.ldx = 1;
  if (m > 1) {
    args.lanes = args.ldx = lanes_for(m);
    args.panel_stride = a.cols * args.lanes;
  }
  launch_rows(op, args, a, m > 1 ? spread(op, x, m, a.cols, args.lanes) : x, y, epilogue, pre);
  return {y, pre};
}

Tensor sparse_grad(const Sparse& a, const Tensor& g, const Tensor& x, bool linear) {
  const char* op = "sparse_grad";
  check_operands(op, a, "x", x);
  check_floating(op, "x", x, "the gradient", g);
  const bool fits = x.rank() == 2 && g.rank() == 2 && x.dim(linear) == a.cols && g.dim(linear) == a.rows &&
                    x.dim(!linear) == g.dim(!linear);
  check<ShapeError>(fits, op, "x ", x.shape(), " and the gradient ", g.shape(), " do not fit (", a.rows, ", ", a.cols,
                    ")");
  SparseGradArgs args;
  args.dtype = x.dtype();
  args.depth = static_cast<int32_t>(depth_of(a));
  args.rows = a.rows;
  args.cols = a.cols;
  args.m = x.dim(!linear);
  // Entries want both operands' rows along m, panels want m outermost.
  const bool turn = linear != a.is_blocked();
  const Tensor gt = turn ? transpose(g, {1, 0}) : g, xt = turn ? transpose(x, {1, 0}) : x;
  const Shape shape = a.is_blocked() ? Shape{a.values.dim(0), a.values.dim(2), kSparseRows} : a.values.shape();
  const Tensor y = Tensor::empty(x.dtype(), shape, x.device());
  if (y.size() > 0) {
    const int64_t items = ceil_div(a.rows, kSparseRows);
    const double ns = entries_ns(a.indices.size() * depth_of(a), a.is_blocked() ? 16 * args.m : args.m, args.dtype);
    launch(op, a.is_blocked() ? &KernelTable::sparse_panel_grad : &KernelTable::sparse_grad, args,
           {items, ns / static_cast<double>(items)},
           {read(&SparseGradArgs::indices, a.indices), read(&SparseGradArgs::indptr, a.indptr),
            read(&SparseGradArgs::g, gt), read(&SparseGradArgs::x, xt), write(&SparseGradArgs::y, y)});
  }
  return args.depth == 1 ? y.reshape(a.values.shape()) : transpose(y, {0, 2, 1});
}

Tensor qsparse_linear(const Tensor& x, const Sparse& a, const QOutput& out) {
  const char* op = "qsparse_linear";
  check_parts(op, a);
  check<DTypeError>(x.dtype() == DType::kUInt8, op, "x must be uint8, got ", name(x.dtype()));
  check<DTypeError>(a.values.dtype() == DType::kInt8, op, "weight must be int8, got ", name(a.values.dtype()));
  check<ShapeError>(a.is_blocked() && depth_of(a) == 4, op, "weight must have blocks of (16, 4), its values are ",
                    a.values.shape(), "; make it with sparse.block(w, (16, 4))");
  check<ShapeError>(x.rank() > 0 && x.dim(-1) == a.cols, op, "weight expects ", a.cols, " input features, x has ",
                    x.rank() > 0 ? x.dim(-1) : 0, " (x: ", x.shape(), ", weight: (", a.rows, ", ", a.cols, "))");
  check_output(op, out, a.rows, Shape{a.rows, a.cols});
  const Tensor y =
      Tensor::empty(out.as_float ? DType::kFloat32 : DType::kUInt8, x.shape().with(x.rank() - 1, a.rows), x.device());
  if (y.size() == 0) return y;
  QSparseArgs args;
  args.zero_point = out.zero_point;
  args.lo = out.lo;
  args.hi = out.hi;
  args.y_float = out.as_float;
  args.m = y.size() / a.rows;
  args.n = a.rows;
  args.k = a.cols;
  const int64_t items = ceil_div(args.m, kQStrip) * ceil_div(a.rows, kSparseRows);
  const double ns = 0.35 * static_cast<double>(a.indices.size() * (args.m + 1)) + 40.0 * static_cast<double>(items);
  launch(op, &KernelTable::sparse_u8s8, args, {items, ns / static_cast<double>(items)},
         {read(&QSparseArgs::a, x), read(&QSparseArgs::values, a.values), read(&QSparseArgs::indices, a.indices),
          read(&QSparseArgs::indptr, a.indptr), read(&QSparseArgs::bias, out.bias),
          read(&QSparseArgs::scale, out.scale), write(&QSparseArgs::c, y)});
  return y;
}

}  // namespace quernel::ops
