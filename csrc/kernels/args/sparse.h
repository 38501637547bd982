// Products of a sparse and a dense matrix. A sparse matrix A (rows, cols) is either
//   CSR      values (nnz), indices (nnz) the columns of each row, strictly ascending, indptr (rows + 1), or
//   blocked  values (blocks, depth, 16) for panels of 16 rows: indices (blocks) are columns / depth, indptr
//            (panels + 1). Step t of a panel is column indices[t / depth] · depth + t % depth, its weights are
//            values[t]: the steps of the dense kernel with some left out. Rows past the last have values of no effect.
// indices, indptr and source are int32.
#pragma once
#include "kernels/args/epilogue.h"
#include "kernels/args/quant.h"

namespace quernel {

inline constexpr int64_t kSparseRows = 16;   // rows of a panel, and of a work item
inline constexpr int64_t kSparseLanes = 64;  // most columns of the dense operand that an item takes

// y = epilogue(A · x) for x (cols, n), or, `transposed`, y (n, rows) = epilogue((A · x)^T). x comes in panels of
// `lanes` columns, panel_stride apart, its rows ldx apart. Item = (panel, 16 rows), rows fastest. `source`: the value
// of entry i is values[source[i]].
struct SparseArgs : Epilogue {
  const void* values = nullptr;
  const void* indices = nullptr;
  const void* indptr = nullptr;
  const void* source = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  bool transposed = false;
  int64_t rows = 0, cols = 0, n = 0;
  int64_t ldx = 0, lanes = 0, panel_stride = 0;
};

// CSR with 16 rows side by side, for one x: values and indices are (steps, 16), entry `step` of the panel's rows. Rows
// are sorted by length within a window of kLaneWindow, an item.
inline constexpr int64_t kLaneWindow = 128;
struct LanePanel {
  int32_t first;                // step of its first entries
  int32_t length[kSparseRows];  // entries of each lane, descending
  int32_t place[kSparseRows];   // each lane's row, from the window's first on
};

// y (rows) = epilogue(A x), x (cols); `panels` are LanePanels.
struct SparseLanesArgs : Epilogue {
  const void* values = nullptr;
  const void* indices = nullptr;
  const void* panels = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  int64_t rows = 0;
};

// x (m, k) into panels [m/lanes][k][lanes], padded with zeros; item = (panel, kSpreadRows of k).
inline constexpr int64_t kSpreadRows = 128;
struct SpreadArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  int64_t m = 0, k = 0, lanes = 0;
};

// Blocked A. `sparse_panels`: y (n, rows) = epilogue(x A^T), x (n, cols); item = (strip of kStripRows rows of x,
// kPanelGroup panels), panels fastest. `sparse_panel_rows`: y (rows, n) = epilogue(A x), x (cols, n); item = panel.
inline constexpr int64_t kPanelGroup = 4;
inline constexpr int64_t kStripRows = 24;
struct SparsePanelArgs : Epilogue {
  const void* values = nullptr;
  const void* indices = nullptr;
  const void* indptr = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  int32_t depth = 1;  // 1 or 4
  int64_t rows = 0, cols = 0, n = 0;
};

// Gradient of the values of A. CSR: y[i] = g[row] · x[column], rows of g (rows, m) and x (cols, m); item = 16 rows.
// Blocked: y[t][j] = sum over m of x[m, column] g[m, row j], for g (m, rows) and x (m, cols); item = panel.
struct SparseGradArgs {
  const void* indices = nullptr;
  const void* indptr = nullptr;
  const void* g = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  int32_t depth = 1;
  int64_t rows = 0, cols = 0, m = 0;
};

// u8 (m, k) · blocked s8 (n, k) in blocks [16][4] -> u8 or float, as gemm_u8s8; item = (strip of kQStrip rows, panel),
// panels fastest.
struct QSparseArgs : Requantize {
  const void* a = nullptr;
  const void* values = nullptr;
  const void* indices = nullptr;
  const void* indptr = nullptr;
  void* c = nullptr;
  bool y_float = false;
  int64_t m = 0, n = 0, k = 0;
};

// Refuses what is no structure of `rows` rows (or panels) and `cols` columns (or groups of columns); item = kCheckRows
// rows.
inline constexpr int64_t kCheckRows = 64;
struct CheckSparseArgs {
  const void* indices = nullptr;
  const void* indptr = nullptr;
  int64_t rows = 0, cols = 0, size = 0;
};

}  // namespace quernel
