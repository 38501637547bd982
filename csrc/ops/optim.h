// Optimizer steps on flat segments, in place. `states` are the arrays that an optimizer keeps, undefined where it does
// without; `hyper` is laid out as kernels/optim.cpp says, `step` counts from 1.
#pragma once
#include <vector>

#include "core/tensor.h"

namespace quernel::ops {

struct Update {
  const Tensor& param;
  const Tensor& grad;
  const std::vector<Tensor>& states;
  const Tensor& hyper;
  const Tensor& step;
};

void sgd(const Update& update);      // momentum buffer, optional
void adagrad(const Update& update);  // sum of squares
void rmsprop(const Update& update);  // mean of squares, momentum buffer and mean of gradients, both optional
void adam(const Update& update);     // means of gradients and of squares
void nadam(const Update& update);    // the same
void lion(const Update& update);     // mean of gradients

// Row i of `grad` (n, width) updates row rows[i] (n, int64) of `param` and of the states, which are tables; -1 none.
void sgd_rows(const Update& update, const Tensor& rows);  // without momentum
void adam_rows(const Update& update, const Tensor& rows);

void advance_step(const Tensor& step);

void moving_average(const Tensor& average, const Tensor& param, const Tensor& hyper, const Tensor& step);

}  // namespace quernel::ops
