// The native module: one register_F per op family.
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Quernel's native engine. Use the documented Python layer; this module checks little.";
  quernel::register_errors(m);
  quernel::register_tensor(m);
  quernel::register_runtime(m);
  quernel::register_cuda(m);
  quernel::register_exchange(m);
  quernel::register_probe(m);
  quernel::register_plan(m);
  quernel::register_replay(m);
  quernel::register_op(m);
  quernel::register_tape(m);
  quernel::register_profile(m);
  quernel::register_elementwise(m);
  quernel::register_layout(m);
  quernel::register_embedding(m);
  quernel::register_embedding_bag(m);
  quernel::register_reduce(m);
  quernel::register_pool(m);
  quernel::register_upsample(m);
  quernel::register_softmax(m);
  quernel::register_loss(m);
  quernel::register_ctc(m);
  quernel::register_norm(m);
  quernel::register_layer_norm(m);
  quernel::register_group_norm(m);
  quernel::register_recurrent(m);
  quernel::register_attention(m);
  quernel::register_random(m);
  quernel::register_optim(m);
  quernel::register_matmul(m);
  quernel::register_conv(m);
  quernel::register_quant(m);
  quernel::register_sparse(m);
}
