// Recurrent layers: one direction of one layer, over all its time steps.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

inline constexpr int64_t kRecurrentRows = 24;  // most rows of an item

// Gates follow each other in rows of gates · hidden numbers: i, f, g, o of an LSTM, r, z, n of a GRU.
enum class Cell : int32_t { kLstm, kGru, kRnnTanh, kRnnRelu };

// Rows of the batch are independent; item = `strip` of them, which walk through time together. Row r has lengths[r]
// steps (all, if null), in order or, with `reverse`, from its last one to its first.
struct RecurrentShape {
  DType dtype{};
  Cell cell{};
  bool reverse = false;
  int64_t rows = 0, steps = 0, hidden = 0, gates = 0;
  int64_t strip = 0;
};

// y (N, T, H) from x (N, T, I). weight_ih B[I, gates · H] and weight_hh B[H, gates · H] are packed as args/matmul.h
// says, for products in bfloat16 as args/bf16.h does. Steps behind a row's length are 0; h_n and c_n (N, H) are the
// last state. `gates_t` and `cell_t` are kept for the gradient, or null, in steps of the walk; `cell_t` (T, N, H) is c
// of an LSTM, of a GRU what the reset gate scales.
struct RecurrentArgs : RecurrentShape {
  int64_t inputs = 0;
  const void* x = nullptr;
  const void* weight_ih = nullptr;
  const void* weight_hh = nullptr;
  const void* bias_ih = nullptr;  // (gates · H), or null
  const void* bias_hh = nullptr;
  const void* h0 = nullptr;       // (N, H), null: 0
  const void* c0 = nullptr;       // LSTM
  const void* lengths = nullptr;  // int64 (N)
  void* y = nullptr;
  void* h_n = nullptr;
  void* c_n = nullptr;      // LSTM
  void* gates_t = nullptr;  // (T, N, gates · H), after their functions
  void* cell_t = nullptr;
};

// From the gradients of y, h_n and c_n (each may be null) those of all operands. Item = part of the strips, one after
// the other; gradients of weights and biases come in `parts`, to be summed: (parts, gates · H, I), (parts, gates · H,
// H) and (parts, gates · H). That of bias_hh differs from that of bias_ih in a GRU only, else it is null. The weights
// are B[gates · H, I] and B[gates · H, H], packed.
struct RecurrentGradArgs : RecurrentShape {
  int64_t inputs = 0, parts = 0;
  const void* gates_t = nullptr;
  const void* cell_t = nullptr;
  const void* x = nullptr;
  const void* y = nullptr;
  const void* h0 = nullptr;
  const void* c0 = nullptr;
  const void* lengths = nullptr;
  const void* weight_ih = nullptr;
  const void* weight_hh = nullptr;
  const void* g_y = nullptr;
  const void* g_h = nullptr;
  const void* g_c = nullptr;
  void* dx = nullptr;  // or null
  void* dweight_ih = nullptr;
  void* dweight_hh = nullptr;
  void* dbias_ih = nullptr;
  void* dbias_hh = nullptr;
  void* dh0 = nullptr;
  void* dc0 = nullptr;  // LSTM
};

// Refuses lengths, int64 (rows), out of range.
struct CheckLengthsArgs {
  const void* lengths = nullptr;
  int64_t rows = 0;
  LengthRange range;
};

}  // namespace quernel
