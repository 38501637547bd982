#include "ops/loss.h"

#include "core/error.h"
#include "ops/common.h"
#include "runtime/launch.h"

namespace quernel::ops {
namespace {

struct Kind {
  const char* name;  // outlives every plan
  LossOp op;
  double ns;  // an element, float32
  bool target_is_probability, x_is_probability;
};

constexpr Kind kKinds[] = {
    {"mse_loss", LossOp::kSquare, 0.1, false, false},
    {"l1_loss", LossOp::kAbsolute, 0.1, false, false},
    {"huber_loss", LossOp::kHuber, 0.15, false, false},
    {"smooth_l1_loss", LossOp::kSmoothL1, 0.2, false, false},
    {"binary_cross_entropy", LossOp::kBinary, 1.2, true, true},
    {"binary_cross_entropy_with_logits", LossOp::kBinaryLogits, 1.2, true, false},
    {"sigmoid_focal_loss", LossOp::kFocalLogits, 1.5, true, false},
    {"focal_loss", LossOp::kFocal, 1.5, false, false},
    {"kl_div", LossOp::kKl, 0.6, true, false},
    {"kl_div_log", LossOp::kKlLog, 0.5, false, false},
};

const Kind& find(const std::string& name) {
  for (const Kind& kind : kKinds) {
    if (name == kind.name) return kind;
  }
  fail<ArgumentError>("loss", "there is no loss named ", name);
}

void check_like(const char* op, const char* what, const Tensor& t, const Tensor& x) {
  check<ShapeError>(t.shape() == x.shape(), op, what, " has shape ", t.shape(), ", x ", x.shape());
  check<DTypeError>(t.dtype() == x.dtype(), op, what, " is ", name(t.dtype()), ", x is ", name(x.dtype()));
}

LossArgs checked(const Kind& kind, const Tensor& x, const Tensor& target, const Tensor& weight, LossConstants c) {
  check_floating(kind.name, "x", x.dtype());
  check<StateError>(target.defined() || kind.op == LossOp::kFocal, kind.name, "a target is missing");
  if (target.defined()) check_like(kind.name, "target", target, x);
  if (weight.defined()) check_like(kind.name, "pos_weight", weight, x);
  LossArgs args;
  args.op = kind.op;
  args.dtype = x.dtype();
  args.a = c.a;
  args.b = c.b;
  args.size = x.size();
  return args;
}

Work work(const Kind& kind, const Tensor& x) {
  return element_blocks(x.size(), kind.ns * (x.dtype() == DType::kFloat64 ? 10 : 1));
}

}  // namespace

void check_probabilities(const char* op, const Tensor& x, bool nan_passes, double slack) {
  CheckProbabilitiesArgs args;
  args.dtype = x.dtype();
  args.nan_passes = nan_passes;
  args.slack = slack;
  args.size = x.size();
  launch(op, &KernelTable::check_probabilities, args, element_blocks(x.size(), 0.1),
         {read(&CheckProbabilitiesArgs::x, x)});
}

Tensor loss(const std::string& kind_, const Tensor& x, const Tensor& target, const Tensor& weight, LossConstants c) {
  const Kind& kind = find(kind_);
  const LossArgs args = checked(kind, x, target, weight, c);
  if (kind.target_is_probability) check_probabilities(kind.name, target, false, kProbabilitySlack);
  if (kind.x_is_probability) check_probabilities(kind.name, x, true, 0);  // a NaN goes on into the loss
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
  launch(kind.name, &KernelTable::loss, args, work(kind, x),
         {read(&LossArgs::x, x), read(&LossArgs::target, target), read(&LossArgs::weight, weight),
          write(&LossArgs::y, y)});
  return y;
}

Tensor loss_grad(const std::string& kind_, const Tensor& x, const Tensor& target, const Tensor& weight, const Tensor& g,
                 LossConstants c, double scale) {
  const Kind& kind = find(kind_);
  LossArgs args = checked(kind, x, target, weight, c);
  args.scale = scale;
  args.g_is_number = g.shape() == Shape{} && x.shape() != Shape{};
  if (!args.g_is_number) check_like(kind.name, "g", g, x);
  check<DTypeError>(g.dtype() == x.dtype(), kind.name, "g is ", name(g.dtype()), ", x is ", name(x.dtype()));
  const Tensor y = Tensor::empty(x.dtype(), x.shape(), x.device());
  launch(kind.name, &KernelTable::loss_grad, args, work(kind, x),
         {read(&LossArgs::x, x), read(&LossArgs::target, target), read(&LossArgs::weight, weight),
          read(&LossArgs::g, g), write(&LossArgs::y, y)});
  return y;
}

}  // namespace quernel::ops
