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

void check_common(const char* op, const Tensor& param, const Tensor& grad, const Tensor& hyper, int64_t hyper_size,
                  const Tensor& step) {
  check_floating(op, "param", param.dtype());
  check<ShapeError>(param.rank() == 1, op, "param must be a flat segment, has shape ", param.shape());
  check_segment(op, "grad", grad, param);
  check<DTypeError>(hyper.dtype() == DType::kFloat64 && hyper.size() == hyper_size, op, "hyper must hold ", hyper_size,
                    " float64, has ", hyper.size(), " of ", name(hyper.dtype()));
  check_step(op, step);
}

// `arrays` are read or written once each: about 20 bytes a nanosecond.
Work pass(const Tensor& param, int arrays) {
  const double ns = static_cast<double>(itemsize(param.dtype())) * arrays / 20;
  return {(param.size() + kElementBlock - 1) / kElementBlock, ns * static_cast<double>(kElementBlock)};
}

}  // namespace

void sgd(const Tensor& param, const Tensor& grad, const Tensor& momentum, const Tensor& hyper, const Tensor& step) {
  check_common("sgd", param, grad, hyper, 5, step);
  if (momentum.defined()) check_segment("sgd", "momentum", momentum, param);
  SgdArgs args;
  args.dtype = param.dtype();
  args.size = param.size();
  launch("sgd", &KernelTable::sgd, args, pass(param, momentum.defined() ? 5 : 3),
         {read(&SgdArgs::grad, grad), read(&SgdArgs::hyper, hyper), read(&SgdArgs::step, step),
          update(&SgdArgs::param, param), update(&SgdArgs::momentum, momentum)});
}

void adam(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& hyper,
          const Tensor& step) {
  check_common("adam", param, grad, hyper, 6, step);
  check_segment("adam", "m", m, param);
  check_segment("adam", "v", v, param);
  AdamArgs args;
  args.dtype = param.dtype();
  args.size = param.size();
  launch("adam", &KernelTable::adam, args, pass(param, 7),
         {read(&AdamArgs::grad, grad), read(&AdamArgs::hyper, hyper), read(&AdamArgs::step, step),
          update(&AdamArgs::param, param), update(&AdamArgs::m, m), update(&AdamArgs::v, v)});
}

void advance_step(const Tensor& step) {
  check_step("advance_step", step);
  launch("advance_step", &KernelTable::advance_step, AdvanceStepArgs{}, {1, 1}, {update(&AdvanceStepArgs::step, step)});
}

}  // namespace quernel::ops
