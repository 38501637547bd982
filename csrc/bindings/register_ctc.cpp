#include "bindings/bindings.h"
#include "ops/ctc.h"

namespace quernel {

void register_ctc(py::module_& m) {
  m.def(
      "ctc_loss",
      [](const Tensor& log_probs, const Tensor& targets, const Optional& lengths, const Optional& target_lengths,
         int64_t blank, bool wants_grad) {
        const ops::CtcResult r =
            ops::ctc_loss(log_probs, targets, or_none(lengths), or_none(target_lengths), blank, wants_grad);
        return std::pair{r.loss, wants_grad ? Optional(r.grad) : std::nullopt};
      },
      py::arg("log_probs"), py::arg("targets"), py::arg("lengths"), py::arg("target_lengths"), py::arg("blank"),
      py::arg("wants_grad"), Unlocked(), "The losses of each row and, if wanted, their gradients for log_probs.");
}

}  // namespace quernel
