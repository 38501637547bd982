#include "ops/embedding_bag.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "ops/common.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

constexpr double kNsPerByte = 1.0 / 16;
constexpr double kNsPerGrouped = 8;

void check_operands(const Lookups& l, DType dtype) {
  if (l.weights.defined()) check_like(l.op, "per_sample_weights", l.weights, l.index.shape(), dtype);
  check<DTypeError>(!l.offsets.defined() || (l.offsets.dtype() == DType::kInt64 && l.offsets.rank() == 1), l.op,
                    "offsets must be one dimension of int64");
}

void check_lookups(const Lookups& l, int64_t rows, DType dtype) {
  check_index({l.op, "rows", 0, false}, l.index, rows);
  check_operands(l, dtype);
}

void check_bags(const Lookups& l, int64_t bags) {
  const int64_t n = l.index.size();
  if (l.offsets.defined()) {
    check<ShapeError>(bags <= l.offsets.size() && l.offsets.size() <= bags + 1 && (bags > 0 || n == 0), l.op, "got ",
                      l.offsets.size(), " offsets and ", n, " indices for ", bags, " bags");
  } else {
    check<ShapeError>(bags * l.length == n, l.op, "got ", n, " indices for ", bags, " bags of ", l.length);
  }
}

double row_ns(const Tensor& t) {
  return kNsPerByte * static_cast<double>(t.dim(1)) * static_cast<double>(itemsize(t.dtype()));
}

void sum_groups(const Lookups& l, const Groups& groups, const Tensor& g, const Operand& y, const Tensor& rows) {
  SumRowsArgs args;
  args.dtype = g.dtype();
  args.most = groups.most;
  args.bags = g.dim(0);
  args.length = l.length;
  args.features = g.dim(1);
  const double lookups = static_cast<double>(l.index.size()) / static_cast<double>(groups.most);
  launch(l.op, &KernelTable::sum_rows, args, {args.most, 4 + (1 + lookups) * (2 + row_ns(g))},
         {read(&SumRowsArgs::g, g), read(&SumRowsArgs::start, groups.start), read(&SumRowsArgs::order, groups.order),
          read(&SumRowsArgs::offsets, l.offsets), read(&SumRowsArgs::weights, l.weights),
          read(&SumRowsArgs::rows, rows), y});
}

}  // namespace

void check_offsets(const char* op, const Tensor& offsets, int64_t n, bool closed) {
  CheckOffsetsArgs args;
  args.size = offsets.size();
  args.n = n;
  args.closed = closed;
  launch(op, &KernelTable::check_offsets, args, {1, static_cast<double>(args.size)},
         {read(&CheckOffsetsArgs::offsets, offsets)});
}

BagMode bag_mode_from_name(const std::string& name) {
  if (name == "sum") return BagMode::kSum;
  if (name == "mean") return BagMode::kMean;
  check<ArgumentError>(name == "max", "embedding_bag", "unknown mode ", name);
  return BagMode::kMax;
}

Reduced embedding_bag(const Lookups& l, const Tensor& x, BagMode mode, int64_t bags) {
  check_floating(l.op, "weight", x.dtype());
  check_lookups(l, x.dim(0), x.dtype());
  check_bags(l, bags);
  Reduced r{Tensor::empty(x.dtype(), Shape{bags, x.dim(1)}, x.device()), {}, {}};
  if (mode == BagMode::kMean) r.inverse = Tensor::empty(x.dtype(), Shape{bags, 1}, x.device());
  if (mode == BagMode::kMax) r.chosen = Tensor::empty(DType::kInt64, r.y.shape(), x.device());
  EmbeddingBagArgs args;
  args.dtype = x.dtype();
  args.mode = mode;
  args.bags = bags;
  args.length = l.length;
  args.n = l.index.size();
  args.features = x.dim(1);
  args.skip = l.skip;
  const double lookups = bags ? static_cast<double>(args.n) / static_cast<double>(bags) : 0;
  const double per_lookup = row_ns(x) * (mode == BagMode::kMax ? 4 : 1);
  launch(l.op, &KernelTable::embedding_bag, args, {bags, 4 + lookups * (2 + per_lookup) + row_ns(x)},
         {read(&EmbeddingBagArgs::x, x), read(&EmbeddingBagArgs::index, l.index),
          read(&EmbeddingBagArgs::offsets, l.offsets), read(&EmbeddingBagArgs::weights, l.weights),
          write(&EmbeddingBagArgs::y, r.y), write(&EmbeddingBagArgs::inverse, r.inverse),
          write(&EmbeddingBagArgs::chosen, r.chosen)});
  return r;
}

Groups group_rows(const Lookups& l, const Tensor& rows, int64_t kept, int64_t most, int64_t table_rows) {
  check_index({l.op, "rows", 0, false}, l.index, table_rows);
  const int64_t n = l.index.size();
  check<ShapeError>(kept + n <= std::numeric_limits<int32_t>::max(), l.op, "looks up ", kept + n,
                    " rows, more than a gradient by rows can number");
  const Groups groups{rows, Tensor::empty(DType::kInt64, Shape{most + 2}, rows.device()),
                      Tensor::empty(DType::kInt64, Shape{std::max<int64_t>(n, 1)}, rows.device()), most};
  GroupRowsArgs args;
  args.n = n;
  args.kept = kept;
  args.most = most;
  args.capacity = rows.size();
  args.skip = l.skip;
  launch(l.op, &KernelTable::group_rows, args, {1, kNsPerGrouped * static_cast<double>(kept + n)},
         {read(&GroupRowsArgs::index, l.index),
          kept ? update(&GroupRowsArgs::rows, rows) : write(&GroupRowsArgs::rows, rows),
          write(&GroupRowsArgs::start, groups.start), write(&GroupRowsArgs::order, groups.order)});
  return groups;
}

void sum_rows(const Lookups& l, const Groups& groups, const Tensor& g, const Tensor& y, bool onto) {
  check_floating(l.op, "the gradient", g.dtype());
  check_operands(l, g.dtype());
  check_bags(l, g.dim(0));
  check_like(l.op, "a gradient by rows", y, Shape{groups.most, g.dim(1)}, g.dtype());
  sum_groups(l, groups, g, onto ? update(&SumRowsArgs::y, y) : write(&SumRowsArgs::y, y), {});
}

Tensor bag_sum_grad(const Lookups& l, const Tensor& g, int64_t rows) {
  check_floating(l.op, "the gradient", g.dtype());
  check_operands(l, g.dtype());
  check_bags(l, g.dim(0));
  const Tensor y = full(Shape{rows, g.dim(1)}, 0, g.dtype(), g.device());
  if (l.index.size() == 0) return y;
  const int64_t most = std::min(l.index.size(), rows);
  const Groups groups = group_rows(l, Tensor::empty(DType::kInt64, Shape{most}, g.device()), 0, most, rows);
  sum_groups(l, groups, g, update(&SumRowsArgs::y, y), groups.rows);
  return y;
}

Tensor bag_weights_grad(const Lookups& l, const Tensor& g, const Tensor& x) {
  check_floating(l.op, "weight", x.dtype());
  check_lookups(l, x.dim(0), x.dtype());
  check_bags(l, g.dim(0));
  check_like(l.op, "the gradient", g, Shape{g.dim(0), x.dim(1)}, x.dtype());
  const Tensor y = Tensor::empty(x.dtype(), l.index.shape(), x.device());
  BagWeightsGradArgs args;
  args.dtype = x.dtype();
  args.bags = g.dim(0);
  args.length = l.length;
  args.n = l.index.size();
  args.features = x.dim(1);
  args.skip = l.skip;
  const Work work{ceil_div(args.n, kBagWeightsBlock), static_cast<double>(kBagWeightsBlock) * (5 + 2 * row_ns(x))};
  launch(l.op, &KernelTable::bag_weights_grad, args, work,
         {read(&BagWeightsGradArgs::g, g), read(&BagWeightsGradArgs::x, x), read(&BagWeightsGradArgs::index, l.index),
          read(&BagWeightsGradArgs::offsets, l.offsets), write(&BagWeightsGradArgs::y, y)});
  return y;
}

}  // namespace quernel::ops
