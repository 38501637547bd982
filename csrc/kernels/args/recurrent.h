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
// says. Steps behind a row's length are 0; h_n and c_n (N, H) are the last state. `gates_t`, `cell_t` and `h_prev` are
// kept for the gradient, or null; `cell_t` (N, T, H) is c of an LSTM, of a GRU the product that the reset gate
// multiplies.
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
  void* gates_t = nullptr;  // (N, T, gates · H), after their functions
  void* cell_t = nullptr;
  void* h_prev = nullptr;  // (N, T, H): the state that a step began with
};

// From the gradients of y, h_n and c_n (each may be null) those of the products of inputs and states, (N, T, gates ·
// H), their sums over each strip's rows and steps (strips, gates · H), and those of h0 and c0. The products of the
// states have gradients of their own in a GRU only. weight_hh is B[gates · H, H], packed.
struct RecurrentGradArgs : RecurrentShape {
  const void* gates_t = nullptr;
  const void* cell_t = nullptr;
  const void* h_prev = nullptr;  // GRU
  const void* y = nullptr;       // RNN
  const void* c0 = nullptr;
  const void* lengths = nullptr;
  const void* weight_hh = nullptr;
  const void* g_y = nullptr;
  const void* g_h = nullptr;
  const void* g_c = nullptr;
  void* of_inputs = nullptr;
  void* of_states = nullptr;
  void* sum_inputs = nullptr;
  void* sum_states = nullptr;
  void* dh0 = nullptr;
  void* dc0 = nullptr;  // LSTM
};

// Refuses lengths outside [1, steps].
struct CheckLengthsArgs {
  const void* lengths = nullptr;
  int64_t rows = 0, steps = 0;
};

}  // namespace quernel
