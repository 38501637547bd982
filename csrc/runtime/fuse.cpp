// The fusion table. Every pattern leaves the bits of all results as they are: an epilogue does to the accumulator
// what the separate kernel does to the stored value, in the same order and by the same functions.
//
//   producer        consumer                          becomes
//   any             none                              nothing
//   any             copy                              the producer writes the copy's destination; in long programs it
//                                                     does so in the copy's place
//   gemm, conv      add(T, vector over columns)       bias; the same for products with a sparse matrix
//   these, rows     add(T, R), R of T's shape         residual
//   these, rows     relu, tanh, sigmoid, gelu, silu,
//                   relu6, hardswish                  activation; T is kept as `pre` if others read it
//   these, rows     relu_grad(Y, T)                   gate: the gradient passes where the ReLU's output Y is positive
//   gemm, mlp       gemm                              mlp (CUDA, float32, not in tf32): both in one kernel, T in shared
//                                                     memory, if neither has more than 128 columns; T is kept if others
//                                                     read it (fuse_layers.cpp)
//   pack            mlp                               the mlp reads what is packed for it alone as it lies
//   mlp, gemm       mean of cross_entropy, mlp, gemm  mlp: with the losses, their gradient, and the layers that it goes
//                                                     through (fuse_loss.cpp)
//   products over   sums over the same rows, mean of  gradients: of all parameters over one batch, in one step
//   rows            losses, adam, sgd                 (fuse_gradients.cpp)
//   mlp             advance_step                      the mlp counts the step, if `gradients` has the update
//
// gemm, conv: products and convolutions, forward or towards the input. rows: batch_norm and max_pool2d's gradient.
//
// T is the producer's result, a temporary. Patterns apply where the consumer is T's only reader (but for `pre`) and
// where the consumer's destination may be written as early as the producer runs.
#include "runtime/fuse.h"

#include <algorithm>
#include <optional>

#include "runtime/cuda.h"

namespace quernel {
namespace {

class Fuser {
 public:
  explicit Fuser(Program& program) : program_(program), is_long_(program.is_long()) {}

  void run() {
    while (drop_dead() || fuse_any()) {
    }
  }

 private:
  using Steps = std::vector<Step>;

  bool is_temporary(const Use& use) const { return program_.segments[use.segment].kind == Segment::Kind::kTemporary; }
  // The use is all of its segment.
  bool is_whole(const Use& use) const {
    return use.offset == 0 && use.nbytes == static_cast<int64_t>(program_.segments[use.segment].storage->nbytes());
  }
  int count_readers(int segment) const {
    int n = 0;
    for (const Step& step : program_.steps) {
      for (const Use& use : step.uses) n += use.segment == segment && use.reads();
    }
    return n;
  }

  bool drop_dead();
  bool fuse_any();
  bool fuse_step(size_t consumer);
  bool fuse_epilogue(size_t consumer, size_t producer, const Use& t, const Use& y);
  std::optional<size_t> sole_writer(const Use& t, size_t before) const;
  bool may_write_early(const Use& y, size_t producer, size_t consumer) const;
  bool unwritten_between(const Use& use, size_t first, size_t last) const;
  bool replace_copy(size_t copy, size_t producer, const Use& t, const Use& y);
  void redirect(const Use& from, const Use& to);
  void erase(size_t step) { program_.steps.erase(program_.steps.begin() + static_cast<std::ptrdiff_t>(step)); }

  Program& program_;
  const bool is_long_;
};

// ---- what an epilogue offers ------------------------------------------------------------------------------------

struct EpilogueFields {
  uint32_t bias, residual, gate, pre, output;
};

template <class Args>
EpilogueFields epilogue_fields(void* Args::* output) {
  return {field_offset<Args>(static_cast<const void* Args::*>(&Args::bias)),
          field_offset<Args>(static_cast<const void* Args::*>(&Args::residual)),
          field_offset<Args>(static_cast<const void* Args::*>(&Args::gate)),
          field_offset<Args>(static_cast<void* Args::*>(&Args::pre)), field_offset<Args>(output)};
}

constexpr int64_t kNoColumns = -1;  // of an epilogue without bias

struct EpilogueView {
  Epilogue* values;
  EpilogueFields fields;
  int64_t columns;
};

std::optional<EpilogueView> epilogue_of(Step& step) {
  if (step.is(&KernelTable::gemm_f32) || step.is(&KernelTable::gemm_f64)) {
    auto& args = step.as<GemmArgs>();
    return EpilogueView{&args, epilogue_fields<GemmArgs>(&GemmArgs::c), args.n};
  }
  const auto is_any = [&](auto... entry) { return (step.is(entry) || ...); };
  const bool forward = is_any(&KernelTable::conv2d_f32, &KernelTable::conv2d_f64, &KernelTable::depthwise2d_f32,
                              &KernelTable::depthwise2d_f64);
  const bool adjoint = is_any(&KernelTable::conv2d_grad_input_f32, &KernelTable::conv2d_grad_input_f64,
                              &KernelTable::depthwise2d_grad_input_f32, &KernelTable::depthwise2d_grad_input_f64);
  if (forward || adjoint) {
    auto& args = step.as<ConvArgs>();
    return EpilogueView{&args, epilogue_fields<ConvArgs>(&ConvArgs::y), forward ? args.s.o : args.s.c};
  }
  if (step.is(&KernelTable::winograd_f32)) {
    auto& args = step.as<WinogradArgs>();
    return EpilogueView{&args, epilogue_fields<WinogradArgs>(&WinogradArgs::y), args.s.o};
  }
  if (step.is(&KernelTable::batch_norm)) {
    auto& args = step.as<BatchNormArgs>();
    return EpilogueView{&args, epilogue_fields<BatchNormArgs>(&BatchNormArgs::y), kNoColumns};
  }
  if (step.is(&KernelTable::max_pool2d_grad)) {
    auto& args = step.as<PoolArgs>();
    return EpilogueView{&args, epilogue_fields<PoolArgs>(&PoolArgs::y), kNoColumns};
  }
  if (step.is(&KernelTable::sparse_rows)) {
    auto& args = step.as<SparseArgs>();
    return EpilogueView{&args, epilogue_fields<SparseArgs>(&SparseArgs::y), args.transposed ? args.rows : args.n};
  }
  if (step.is(&KernelTable::sparse_lanes)) {
    auto& args = step.as<SparseLanesArgs>();
    return EpilogueView{&args, epilogue_fields<SparseLanesArgs>(&SparseLanesArgs::y), args.rows};
  }
  if (step.is(&KernelTable::sparse_panels)) {
    auto& args = step.as<SparsePanelArgs>();
    return EpilogueView{&args, epilogue_fields<SparsePanelArgs>(&SparsePanelArgs::y), args.rows};
  }
  return std::nullopt;
}

Activation activation_of(UnaryOp op) {
  switch (op) {
    case UnaryOp::kRelu:
      return Activation::kRelu;
    case UnaryOp::kTanh:
      return Activation::kTanh;
    case UnaryOp::kSigmoid:
      return Activation::kSigmoid;
    case UnaryOp::kGelu:
      return Activation::kGelu;
    case UnaryOp::kSilu:
      return Activation::kSilu;
    case UnaryOp::kRelu6:
      return Activation::kRelu6;
    case UnaryOp::kHardswish:
      return Activation::kHardswish;
    default:
      return Activation::kNone;
  }
}

// ---- conditions -------------------------------------------------------------------------------------------------

// The one step that fills all of temporary `t`, if it ran before step `before`.
std::optional<size_t> Fuser::sole_writer(const Use& t, size_t before) const {
  if (!is_temporary(t) || !is_whole(t)) return std::nullopt;
  std::optional<size_t> writer;
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    for (const Use& use : program_.steps[i].uses) {
      if (use.segment != t.segment || !use.writes()) continue;
      if (writer || i >= before || use.access != Access::kWrite || !is_whole(use)) return std::nullopt;
      writer = i;
    }
  }
  return writer;
}

// Whether the consumer's destination `y` may be written when the producer runs: nothing touches it from the producer
// to the consumer, and no check that could refuse the step would come after a visible write.
bool Fuser::may_write_early(const Use& y, size_t producer, size_t consumer) const {
  for (size_t i = producer; i <= consumer; ++i) {
    const Step& step = program_.steps[i];
    if (is_check(step) && program_.visible(y)) return false;
    for (const Use& use : step.uses) {
      if (i == consumer && use.field == y.field) continue;
      if (use.overlaps(y)) return false;
    }
  }
  return true;
}

bool Fuser::unwritten_between(const Use& use, size_t first, size_t last) const {
  for (size_t i = first; i < last; ++i) {
    for (const Use& other : program_.steps[i].uses) {
      if (other.writes() && other.overlaps(use)) return false;
    }
  }
  return true;
}

// ---- rewrites ---------------------------------------------------------------------------------------------------

bool Fuser::drop_dead() {
  std::vector<int> readers(program_.segments.size(), 0);
  for (const Step& step : program_.steps) {
    for (const Use& use : step.uses) readers[use.segment] += use.reads();
  }
  return std::erase_if(program_.steps, [&](const Step& step) {
           return !is_check(step) && std::all_of(step.uses.begin(), step.uses.end(), [&](const Use& use) {
             return !use.writes() || (is_temporary(use) && readers[use.segment] == 0);
           });
         }) > 0;
}

// Everything that used `from` uses `to` instead.
void Fuser::redirect(const Use& from, const Use& to) {
  const int segment = from.segment;
  for (Step& step : program_.steps) {
    for (Use& use : step.uses) {
      if (use.segment != segment) continue;
      use.segment = to.segment;
      use.offset += to.offset;
    }
  }
}

bool Fuser::fuse_any() {
  bool changed = false;
  for (size_t i = 0; i < program_.steps.size();) {
    if (fuse_step(i)) {
      changed = true;  // and step i is gone
    } else {
      ++i;
    }
  }
  return changed;
}

// Lets the producer of `t` itself take the place of a copy to `y` at the end of a long program, where what it reads can
// be kept until then in no more memory than `t` needs.
bool Fuser::replace_copy(size_t copy, size_t producer, const Use& t, const Use& y) {
  Step step = program_.steps[producer];
  int64_t kept = 0;
  for (const Use& use : step.uses) {
    if (!use.reads()) continue;
    if (use.overlaps(y) || !unwritten_between(use, producer + 1, copy)) return false;
    kept += is_temporary(use) ? use.nbytes : 0;
  }
  if (kept > t.nbytes || count_readers(t.segment) > 1 || !is_brief(step, program_.work_ns())) return false;
  for (Use& use : step.uses) {
    if (!use.writes()) continue;
    if (use.segment != t.segment) return false;
    use = {use.field, Access::kWrite, y.segment, y.offset, y.nbytes};
  }
  program_.steps[copy] = std::move(step);
  erase(producer);
  return true;
}

bool Fuser::fuse_step(size_t consumer) {
  Step& step = program_.steps[consumer];
  if (step.is(&KernelTable::unary)) {
    const Use t = *step.use(field_offset(&UnaryArgs::x));
    const Use y = *step.use(field_offset(&UnaryArgs::y));
    const auto producer = sole_writer(t, consumer);
    if (!producer) return false;
    if (step.as<UnaryArgs>().op != UnaryOp::kCopy) return fuse_epilogue(consumer, *producer, t, y);
    if (is_long_ && program_.visible(y)) return replace_copy(consumer, *producer, t, y);
    // Later readers of T will read the destination: nobody may write there any more.
    if (!may_write_early(y, *producer, consumer)) return false;
    if (count_readers(t.segment) > 1 && !unwritten_between(y, consumer + 1, program_.steps.size())) return false;
    redirect(t, y);
    erase(consumer);
    return true;
  }
  if (step.is(&KernelTable::binary)) {
    const BinaryOp op = step.as<BinaryArgs>().op;
    const Use* a = step.use(field_offset(&BinaryArgs::a));
    const Use* b = step.use(field_offset(&BinaryArgs::b));
    if (!a || !b || (op != BinaryOp::kAdd && op != BinaryOp::kReluGrad)) return false;
    const Use y = *step.use(field_offset(&BinaryArgs::y));
    for (const Use t : {*a, *b}) {
      if (op == BinaryOp::kReluGrad && t.field == a->field) continue;  // the ReLU's output, not the gradient
      const auto producer = sole_writer(t, consumer);
      if (producer && fuse_epilogue(consumer, *producer, t, y)) return true;
    }
  }
  return false;
}

// Whether operand `is_first` of a binary step runs along the columns of a result (…, columns).
bool is_row_vector(const BinaryArgs& args, bool is_first, int64_t columns) {
  const int64_t* strides = is_first ? args.a_strides : args.b_strides;
  const int64_t* other = is_first ? args.b_strides : args.a_strides;
  return args.shape.rank == 2 && args.shape.dims[1] == columns && strides[0] == 0 && strides[1] == 1 &&
         other[0] == columns && other[1] == 1;
}

bool is_same_shape(const BinaryArgs& args) {
  return args.shape.rank <= 1 && args.a_strides[0] == 1 && args.b_strides[0] == 1;
}

// Moves a unary, an addition or a ReLU's gradient, which reads `t` and writes `y`, into the epilogue of the step that
// made `t`.
bool Fuser::fuse_epilogue(size_t consumer, size_t producer, const Use& t, const Use& y) {
  Step& from = program_.steps[consumer];
  Step& into = program_.steps[producer];
  const auto epilogue = epilogue_of(into);
  if (!epilogue || epilogue->values->activation != Activation::kNone || into.use(epilogue->fields.pre) ||
      into.use(epilogue->fields.gate))
    return false;
  if (into.use(epilogue->fields.output)->segment != t.segment) return false;
  const bool only_reader = count_readers(t.segment) == 1;
  Epilogue changed = *epilogue->values;
  std::optional<Use> operand;
  if (from.is(&KernelTable::unary)) {
    changed.activation = activation_of(from.as<UnaryArgs>().op);
    if (changed.activation == Activation::kNone) return false;
    if (!only_reader) operand = Use{epilogue->fields.pre, Access::kWrite, t.segment, t.offset, t.nbytes};
  } else {
    const auto& args = from.as<BinaryArgs>();
    const bool t_is_first = from.use(field_offset(&BinaryArgs::a))->segment == t.segment;
    operand = *from.use(t_is_first ? field_offset(&BinaryArgs::b) : field_offset(&BinaryArgs::a));
    operand->access = Access::kRead;
    if (!only_reader) return false;
    if (args.op == BinaryOp::kReluGrad) {
      if (!is_same_shape(args)) return false;
      operand->field = epilogue->fields.gate;
    } else if (into.use(epilogue->fields.residual)) {
      return false;
    } else if (is_same_shape(args)) {
      operand->field = epilogue->fields.residual;
    } else if (is_row_vector(args, !t_is_first, epilogue->columns) && !into.use(epilogue->fields.bias)) {
      operand->field = epilogue->fields.bias;
    } else {
      return false;
    }
    // The other operand must be there when the producer runs, and apart from what it writes.
    if (operand->overlaps(y) || !unwritten_between(*operand, producer, consumer)) return false;
  }
  if ((is_long_ && program_.visible(y)) || !may_write_early(y, producer, consumer)) return false;
  *epilogue->values = changed;
  for (Use& use : into.uses) {
    if (use.field == epilogue->fields.output) use = {use.field, Access::kWrite, y.segment, y.offset, y.nbytes};
  }
  if (operand) into.uses.push_back(*operand);
  erase(consumer);
  return true;
}

}  // namespace

void fuse(Program& program) {
  Fuser(program).run();
  // Epilogues are complete.
  if (program.device != Device::kCuda || !has_kernel(&KernelTable::mlp_f32, Device::kCuda) || tf32_allowed()) return;
  fuse_layers(program);
  fuse_loss(program);
  fuse_gradients(program);
}

}  // namespace quernel
