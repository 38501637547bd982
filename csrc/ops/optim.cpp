#include "ops/optim.h"

#include "core/error.h"
#include "ops/common.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

void check_segment(const char* op, const char* what, const Tensor& t, const Tensor& param) {
  check<ShapeError>(t.shape() == param.shape(), op, what, " has shape ", t.shape(), ", param has ", param.shape());
  check<DTypeError>(t.dtype() == param.dtype(), op, what, " is ", name(t.dtype()), ", param is ", name(param.dtype()));
}

void check_step(const char* op, const Tensor& step) {
  check<DTypeError>(step.dtype() == DType::kInt64 && step.size() == 1, op, "step must be one int64, is ", step.size(),
                    " of ", name(step.dtype()));
}

// What distinguishes the optimizers: how much they keep, and how many hyperparameters follow {lr, weight_decay, l1}.
template <class Args>
struct Rule {
  const char* name;
  Kernel<Args> KernelTable::* kernel;
  size_t required, most;  // states
  int64_t own;            // hyperparameters
};

// `arrays` are read or written once each: about 20 bytes a nanosecond.
Work pass(const Tensor& param, int arrays) {
  const double ns = static_cast<double>(itemsize(param.dtype())) * arrays / 20;
  return {(param.size() + kElementBlock - 1) / kElementBlock, ns * static_cast<double>(kElementBlock)};
}

struct States {
  Tensor kept[3];
  int count = 0;
};

// Checks what updates of whole segments and of rows have in common.
template <class Args>
States check_update(const Rule<Args>& rule, const Update& u) {
  const char* op = rule.name;
  check_floating(op, "param", u.param.dtype());
  check<DTypeError>(u.hyper.dtype() == DType::kFloat64 && u.hyper.size() == 3 + rule.own, op, "hyper must hold ",
                    3 + rule.own, " float64, has ", u.hyper.size(), " of ", name(u.hyper.dtype()));
  check_step(op, u.step);
  check<ArgumentError>(u.states.size() >= rule.required && u.states.size() <= rule.most, op, "keeps ", rule.required,
                       " to ", rule.most, " arrays, got ", u.states.size());
  States states;
  for (size_t i = 0; i < u.states.size(); ++i) {
    states.kept[i] = u.states[i];
    check<ArgumentError>(states.kept[i].defined() || i >= rule.required, op, "state ", i, " is missing");
    if (!states.kept[i].defined()) continue;
    check_segment(op, "a state", states.kept[i], u.param);
    ++states.count;
  }
  return states;
}

void run(const Rule<UpdateArgs>& rule, const Update& u) {
  check<ShapeError>(u.param.rank() == 1, rule.name, "param must be a flat segment, has shape ", u.param.shape());
  check_segment(rule.name, "grad", u.grad, u.param);
  const States states = check_update(rule, u);
  UpdateArgs args;
  args.dtype = u.param.dtype();
  args.size = u.param.size();
  launch(rule.name, rule.kernel, args, pass(u.param, 3 + 2 * states.count),
         {read(&UpdateArgs::grad, u.grad), read(&UpdateArgs::hyper, u.hyper), read(&UpdateArgs::step, u.step),
          update(&UpdateArgs::param, u.param), update(&UpdateArgs::first, states.kept[0]),
          update(&UpdateArgs::second, states.kept[1]), update(&UpdateArgs::third, states.kept[2])});
}

void run_rows(const Rule<UpdateRowsArgs>& rule, const Update& u, const Tensor& rows) {
  const char* op = rule.name;
  check<ShapeError>(u.param.rank() == 2 && u.grad.rank() == 2 && u.grad.dim(1) == u.param.dim(1), op,
                    "param and grad are rows of one width, have shapes ", u.param.shape(), " and ", u.grad.shape());
  check_like(op, "grad", u.grad, u.grad.shape(), u.param.dtype());
  check_like(op, "rows", rows, Shape{u.grad.dim(0)}, DType::kInt64);
  const States states = check_update(rule, u);
  UpdateRowsArgs args;
  args.dtype = u.param.dtype();
  args.size = rows.size();
  args.width = u.param.dim(1);
  const double bytes = static_cast<double>(args.width) * static_cast<double>(itemsize(args.dtype));
  launch(op, rule.kernel, args, {args.size, 4 + bytes * (3 + 2 * states.count) / 20},
         {read(&UpdateArgs::grad, u.grad), read(&UpdateArgs::hyper, u.hyper), read(&UpdateArgs::step, u.step),
          update(&UpdateArgs::param, u.param), update(&UpdateArgs::first, states.kept[0]),
          update(&UpdateArgs::second, states.kept[1]), update(&UpdateArgs::third, states.kept[2]),
          read(&UpdateRowsArgs::rows, rows)});
}

}  // namespace

void sgd(const Update& u) { run({"sgd", &KernelTable::sgd, 0, 1, 3}, u); }
void adagrad(const Update& u) { run({"adagrad", &KernelTable::adagrad, 1, 1, 3}, u); }
void rmsprop(const Update& u) { run({"rmsprop", &KernelTable::rmsprop, 1, 3, 3}, u); }
void adam(const Update& u) { run({"adam", &KernelTable::adam, 2, 2, 4}, u); }
void nadam(const Update& u) { run({"nadam", &KernelTable::nadam, 2, 2, 4}, u); }
void lion(const Update& u) { run({"lion", &KernelTable::lion, 1, 1, 2}, u); }

void sgd_rows(const Update& u, const Tensor& rows) { run_rows({"sgd_rows", &KernelTable::sgd_rows, 0, 0, 3}, u, rows); }
void adam_rows(const Update& u, const Tensor& rows) {
  run_rows({"adam_rows", &KernelTable::adam_rows, 2, 2, 4}, u, rows);
}

void advance_step(const Tensor& step) {
  check_step("advance_step", step);
  launch("advance_step", &KernelTable::advance_step, AdvanceStepArgs{}, {1, 1}, {update(&AdvanceStepArgs::step, step)});
}

void moving_average(const Tensor& average, const Tensor& param, const Tensor& hyper, const Tensor& step) {
  const char* op = "moving_average";
  check_floating(op, "param", param.dtype());
  check_segment(op, "average", average, param);
  check<DTypeError>(hyper.dtype() == DType::kFloat64 && hyper.size() == 2, op, "hyper must hold 2 float64, has ",
                    hyper.size(), " of ", name(hyper.dtype()));
  check_step(op, step);
  MovingAverageArgs args;
  args.dtype = param.dtype();
  args.size = param.size();
  launch(op, &KernelTable::moving_average, args, pass(param, 3),
         {read(&MovingAverageArgs::param, param), read(&MovingAverageArgs::hyper, hyper),
          read(&MovingAverageArgs::step, step), update(&MovingAverageArgs::average, average)});
}

}  // namespace quernel::ops
