// Sums, means and maxima of rows of a table, and the gradient of a table by rows. Every function refuses a bad index
// before anything is written; offsets are for check_offsets to look at, once and first.
#pragma once
#include <string>

#include "core/tensor.h"
#include "kernels/args/embedding_bag.h"

namespace quernel::ops {

// Rows of a table that are looked up, and how: bag b holds the lookups from offsets[b] up to offsets[b + 1] (or the
// end), or `length` of them where there are no offsets. A plain lookup is a bag of one.
struct Lookups {
  const char* op;      // for messages, a static string
  Tensor index;        // int64, any shape
  Tensor offsets;      // int64 (bags), or one more; may be undefined
  Tensor weights;      // like the index, of the table's dtype; may be undefined
  int64_t length = 1;  // of a bag
  int64_t skip = -1;   // a row that counts as absent
};

// Refuses offsets that do not rise from 0 to at most n (to n if they are `closed`, with one more than there are bags).
void check_offsets(const char* op, const Tensor& offsets, int64_t n, bool closed);

BagMode bag_mode_from_name(const std::string& name);  // "sum", "mean", "max"

struct Reduced {
  Tensor y;        // (bags, features)
  Tensor inverse;  // means: (bags, 1), one over the number of lookups, or 0
  Tensor chosen;   // maxima: (bags, features) int64, the row that each element is of, or -1
};
Reduced embedding_bag(const Lookups& lookups, const Tensor& x, BagMode mode, int64_t bags);

// Lookups by the number of their row; see GroupRowsArgs.
struct Groups {
  Tensor rows, start, order;
  int64_t most;
};
Groups group_rows(const Lookups& lookups, const Tensor& rows, int64_t kept, int64_t most, int64_t table_rows);

// y (most, features) = the sums of g (bags, features) for each number, or upon what the kept ones hold.
void sum_rows(const Lookups& lookups, const Groups& groups, const Tensor& g, const Tensor& y, bool onto);

// The gradient (rows, features) of the table under sums.
Tensor bag_sum_grad(const Lookups& lookups, const Tensor& g, int64_t rows);

// That of the weights under sums, of the index's shape.
Tensor bag_weights_grad(const Lookups& lookups, const Tensor& g, const Tensor& x);

}  // namespace quernel::ops
