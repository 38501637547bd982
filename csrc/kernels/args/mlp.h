// Chains of products whose results stay in a block's shared memory: the layers of a multilayer perceptron.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel {

inline constexpr int64_t kMlpWidth = 128;  // most columns of x and of a layer
inline constexpr int kMlpLayers = 8;       // most of one call

// y = epilogue(x · B); B[K, N] lies as GemmArgs has it. Where c is null only the next layer reads the result.
struct MlpLayer : Epilogue {
  const void* b = nullptr;
  void* c = nullptr;
  int32_t n = 0;
  int32_t b_row = 0, b_col = 1;
  int32_t group = 0;
  bool pack = false;
};

// x[M, K], rows that follow each other, through all layers, each of which has the columns of the one before as K; item
// = all of it.
struct MlpArgs {
  const void* a = nullptr;
  int64_t m = 0, k = 0;
  int32_t layers = 0;
  MlpLayer layer[kMlpLayers];
};

}  // namespace quernel
