// Recurrent layers (LSTM, GRU, RNN): one direction of one layer.
#pragma once
#include <string>

#include "core/tensor.h"
#include "kernels/args/recurrent.h"

namespace quernel::ops {

inline constexpr const char* kTimeSteps = "time steps";

struct RecurrentSpec {
  Cell cell{};
  bool reverse = false;
  bool bf16 = false;  // products round their operands to bfloat16; all else is float32
};

// Refuses lengths (N) out of range.
void check_lengths(const char* op, const Tensor& lengths, const LengthRange& range);

// "lstm", "gru", "rnn_tanh", "rnn_relu"
Cell cell_from_name(const std::string& name);

// weight_ih (G·H, I), weight_hh (G·H, H); biases (G·H) may be undefined.
struct RecurrentWeights {
  Tensor ih, hh, bias_ih, bias_hh;
};

// (N, H); any may be undefined. c is an LSTM's.
struct RecurrentState {
  Tensor h, c;
};

// y (N, T, H) and the last state, and what the gradient needs where it was asked for.
struct RecurrentResult {
  Tensor y, h_n, c_n;
  Tensor gates, cell;
};

// x (N, T, I). `lengths`, int64 (N), may be undefined; one outside [1, T] is refused before anything is written.
RecurrentResult recurrent(const Tensor& x, const RecurrentWeights& weights, const RecurrentState& initial,
                          const Tensor& lengths, const RecurrentSpec& spec, bool save);

// Gradients of the operands; those of the biases are one tensor unless of a GRU.
struct RecurrentGradients {
  Tensor x;  // where it was asked for
  RecurrentWeights weights;
  RecurrentState initial;
};

// `g` are the gradients of y, h_n and c_n, of which some may be undefined.
struct RecurrentOutgoing {
  Tensor y, h_n, c_n;
};
RecurrentGradients recurrent_grad(const RecurrentResult& forward, const Tensor& x, const RecurrentWeights& weights,
                                  const RecurrentState& initial, const Tensor& lengths, const RecurrentOutgoing& g,
                                  const RecurrentSpec& spec, bool want_x);

}  // namespace quernel::ops
