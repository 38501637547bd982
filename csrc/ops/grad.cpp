#include "ops/grad.h"

#include "core/error.h"
#include "ops/elementwise.h"
#include "runtime/recorder.h"

namespace quernel::ops {

void accumulate_grad(const Tensor& param, const Tensor& g) {
  check<ShapeError>(param.shape() == g.shape(), "backward", "gradient of shape ", g.shape(),
                    " for a parameter of shape ", param.shape());
  Tensor::GradSlot& slot = param.grad_slot();
  const bool has_grad = read_has_grad(param);
  if (!slot.grad) slot.grad = std::make_shared<Tensor>(Tensor::empty(g.dtype(), g.shape(), g.device()));
  if (has_grad) {
    add_into(*slot.grad, g);
  } else {
    copy_into(*slot.grad, g);
    set_has_grad(param, true);
  }
}

void zero_grads(const std::vector<Tensor>& params) {
  for (const Tensor& param : params) set_has_grad(param, false);
}

}  // namespace quernel::ops
