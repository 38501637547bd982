// Reading, adding and overwriting by index. Where an operand is (outer, rows, inner), the index chooses among its rows.
// Every function refuses a bad index before anything is written.
#pragma once
#include "core/tensor.h"

namespace quernel::ops {

// Who uses an index, for messages, and whether negative ones count from the end.
struct IndexUse {
  const char* op;    // a static string
  const char* unit;  // "rows", likewise; null: the indexed dimension is axis `axis`
  int axis;
  bool wrap;
};

void check_index(const IndexUse& use, const Tensor& index, int64_t rows);

// high · rows + index, counted from the front; `high` may be undefined.
Tensor fold_index(const IndexUse& use, const Tensor& high, const Tensor& index, int64_t rows);

// x (outer, rows, inner), index of any shape -> (outer, index.size(), inner).
Tensor take_rows(const IndexUse& use, const Tensor& x, const Tensor& index);

// base (outer, rows, inner), or zeros where it is undefined, with src (outer, index.size(), inner) added in its order.
// Source rows whose index is `skip` are left out.
Tensor add_rows(const IndexUse& use, const Tensor& base, const Tensor& index, const Tensor& src, int64_t rows,
                int64_t skip);

// dst (outer, rows, inner) gets the rows of src; of those with one index the last.
void put_rows(const IndexUse& use, const Tensor& dst, const Tensor& index, const Tensor& src);

// y[o, j, i] = x[o, index[o, j, i], i]; x (outer, rows, inner), index of any shape that holds (outer, n, inner).
Tensor gather(const IndexUse& use, const Tensor& x, const Tensor& index, int64_t n);

// base, or zeros, with y[o, index[o, j, i], i] += src[o, j, i] in the order of j; src (outer, n, inner), index alike.
Tensor scatter_add(const IndexUse& use, const Tensor& base, const Tensor& index, const Tensor& src, int64_t rows);

// start, start + step, …; int64 takes the whole numbers, other dtypes the floats.
Tensor iota(DType dtype, int64_t size, double start, double step, int64_t whole_start, int64_t whole_step,
            Device device);

}  // namespace quernel::ops
