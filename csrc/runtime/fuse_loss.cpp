// The pattern of the fusion table that takes a mean cross-entropy into the MLP that makes its logits, with the layers
// that its gradient goes through. The step stands in the place of the MLP; the mean of the losses stays behind, for the
// gradient does not need it: what both are divided by is counted anew.
#include <algorithm>

#include "runtime/fuse_steps.h"

namespace quernel {
namespace {

using Ce = CrossEntropyArgs;

bool is_same(const Use* a, const Use* b) { return a && b && a->is_same_place(*b); }

uint32_t loss_field(const void* MlpLoss::* field) {
  return field_offset(&MlpArgs::loss) + field_offset<MlpLoss, const void*>(field);
}
uint32_t loss_field(void* MlpLoss::* field) {
  return field_offset(&MlpArgs::loss) + field_offset<MlpLoss, void*>(field);
}

class LossFuser {
 public:
  explicit LossFuser(Program& program) : program_(program) {}

  void run() {
    for (size_t i = 0; i < program_.steps.size();) {
      if (is_plain(i) && find_parts(i)) {
        join();  // steps before and after are gone
        i = 0;
      } else {
        ++i;
      }
    }
  }

 private:
  const Use* use(size_t step, uint32_t field) const { return program_.steps[step].use(field); }

  // Of class labels, without class weights, in float32; of few rows, for every block counts all labels.
  bool is_plain(size_t i) const {
    const Step& step = program_.steps[i];
    if (!step.is(&KernelTable::cross_entropy)) return false;
    const auto& args = step.as<Ce>();
    return args.dtype == DType::kFloat32 && !args.normalized && args.rows <= kGradRows &&
           step.use(field_offset<Ce>(&Ce::labels)) && !step.use(field_offset<Ce>(&Ce::weight));
  }

  bool find_parts(size_t loss);
  bool is_gradient(size_t i) const;
  bool is_mean(size_t i) const;
  std::optional<double> filled(const Use& g) const;
  bool may_follow(const Step& forward, const Step& layers) const;
  bool may_move(const Step& step, size_t from) const;
  void add_layers(Step& made, Step&& more) const;
  void join();

  Program& program_;
  size_t forward_ = 0, loss_ = 0, mean_ = 0, gradient_ = 0;
  std::optional<size_t> backward_;
};

bool LossFuser::is_mean(size_t i) const {
  const Step& step = program_.steps[i];
  using Mean = CrossEntropyMeanArgs;
  return step.is(&KernelTable::cross_entropy_mean) && !step.use(field_offset<Mean>(&Mean::weight)) &&
         step.as<Mean>().ignore_index == program_.steps[loss_].as<Ce>().ignore_index &&
         is_same(step.use(field_offset<Mean>(&Mean::losses)), use(loss_, field_offset<Ce>(&Ce::y))) &&
         is_same(step.use(field_offset<Mean>(&Mean::labels)), use(loss_, field_offset<Ce>(&Ce::labels)));
}

bool LossFuser::is_gradient(size_t i) const {
  const Step& step = program_.steps[i];
  if (!step.is(&KernelTable::cross_entropy_grad)) return false;
  const auto &args = step.as<Ce>(), &loss = program_.steps[loss_].as<Ce>();
  const Use* divisor = use(mean_, field_offset<CrossEntropyMeanArgs>(&CrossEntropyMeanArgs::divisor));
  return args.g_is_number && args.smoothing == loss.smoothing && args.ignore_index == loss.ignore_index &&
         !step.use(field_offset<Ce>(&Ce::weight)) && step.use(field_offset<Ce>(&Ce::g)) &&
         is_same(step.use(field_offset<Ce>(&Ce::x)), use(loss_, field_offset<Ce>(&Ce::x))) &&
         is_same(step.use(field_offset<Ce>(&Ce::labels)), use(loss_, field_offset<Ce>(&Ce::labels))) &&
         is_same(step.use(field_offset<Ce>(&Ce::divisor)), divisor);
}

// Finds all that belong to the losses of step `loss`; what the gradient goes through may be missing.
bool LossFuser::find_parts(size_t loss) {
  loss_ = loss;
  const auto& ce = program_.steps[loss].as<Ce>();
  const Use& logits = *use(loss, field_offset<Ce>(&Ce::x));
  const auto forward = sole_producer(program_, loss, logits);
  const auto mlp = forward ? as_mlp(program_.steps[*forward]) : std::nullopt;
  if (!mlp || mlp->use(loss_field(&MlpLoss::labels)) || !is_same(last_result(*mlp), &logits)) return false;
  const auto& args = mlp->as<MlpArgs>();
  if (ce.rows != args.m || ce.cols != args.layer[args.layers - 1].n) return false;  // else in another shape
  forward_ = *forward;
  const auto find = [&](bool (LossFuser::*is)(size_t) const) {
    size_t i = loss_ + 1;
    while (i < program_.steps.size() && !(this->*is)(i)) ++i;
    return i;
  };
  mean_ = find(&LossFuser::is_mean);
  if (mean_ == program_.steps.size()) return false;
  gradient_ = find(&LossFuser::is_gradient);
  if (gradient_ == program_.steps.size()) return false;
  const auto apart = [&](size_t i) {
    return !conflict(*mlp, program_.steps[i], last_result(*mlp), field_offset<Ce>(&Ce::x));
  };
  if (!apart(loss_) || !apart(gradient_) || !may_move(program_.steps[loss_], loss_) ||
      !may_move(program_.steps[gradient_], gradient_))
    return false;
  backward_ = std::nullopt;
  const Use& dx = *use(gradient_, field_offset<Ce>(&Ce::y));
  for (size_t i = gradient_ + 1; i < program_.steps.size() && !backward_; ++i) {
    const auto layers = as_mlp(program_.steps[i]);
    if (layers && !layers->use(loss_field(&MlpLoss::labels)) && sole_producer(program_, i, dx) == gradient_ &&
        is_same(layers->use(field_offset(&MlpArgs::a)), &dx) &&
        layers->as<MlpArgs>().layers + args.layers <= kMlpLayers && may_follow(*mlp, *layers) &&
        !conflict(*layers, program_.steps[loss_]) && may_move(*layers, i))
      backward_ = i;
  }
  return true;
}

// Whether layers of the backward pass may run in the block that takes the same rows through the forward pass: what they
// have from there, and of the loss's gradient, are gates and residuals, of their own rows.
bool LossFuser::may_follow(const Step& forward, const Step& layers) const {
  const auto &first = forward.as<MlpArgs>(), &more = layers.as<MlpArgs>();
  if (first.m != more.m || first.layer[first.layers - 1].n != more.k) return false;
  const auto is_of_rows = [&](const Use& u) {
    for (int l = 0; l < more.layers; ++l) {
      for (const void* MlpLayer::* field : {static_cast<const void* MlpLayer::*>(&MlpLayer::gate),
                                            static_cast<const void* MlpLayer::*>(&MlpLayer::residual)})
        if (u.field == layer_offset(l) + field_offset<MlpLayer, const void*>(field)) return true;
    }
    return false;
  };
  const auto follows = [&](const Use& before) {
    return std::all_of(layers.uses.begin(), layers.uses.end(), [&](const Use& u) {
      if (!u.overlaps(before) || (!u.writes() && !before.writes())) return true;
      return !u.writes() && u.is_same_place(before) && (is_of_rows(u) || u.field == field_offset(&MlpArgs::a));
    });
  };
  return std::all_of(forward.uses.begin(), forward.uses.end(), follows) &&
         follows(*use(gradient_, field_offset<Ce>(&Ce::y)));
}

// Whether a step may go to the forward pass's place: past all between but those that go with it and the mean, whose
// divisor is not needed.
bool LossFuser::may_move(const Step& step, size_t from) const {
  for (const Use& u : step.uses) {
    if (program_.visible(u)) return false;
  }
  for (size_t i = forward_ + 1; i < from; ++i) {
    if (i == loss_ || i == gradient_ || (i == mean_ && from == gradient_)) continue;
    const Use* g = from == gradient_ ? step.use(field_offset<Ce>(&Ce::g)) : nullptr;
    if (g && filled(*g) && sole_producer(program_, from, *g) == i) continue;
    if (conflict(step, program_.steps[i])) return false;
  }
  return true;
}

// The number that a step fills all of `g` with.
std::optional<double> LossFuser::filled(const Use& g) const {
  const auto producer = sole_producer(program_, gradient_, g);
  if (!producer || !program_.steps[*producer].is(&KernelTable::fill)) return std::nullopt;
  return program_.steps[*producer].as<FillArgs>().value;
}

void LossFuser::add_layers(Step& made, Step&& more) const {
  auto& args = made.as<MlpArgs>();
  for (Use u : more.uses) {
    if (u.field == field_offset(&MlpArgs::a)) continue;
    u.field += layer_offset(args.layers) - layer_offset(0);
    made.uses.push_back(u);
  }
  const auto& from = more.as<MlpArgs>();
  std::copy_n(from.layer, from.layers, args.layer + args.layers);
  args.layers += from.layers;
}

void LossFuser::join() {
  auto& steps = program_.steps;
  Step made = *as_mlp(steps[forward_]);
  auto& args = made.as<MlpArgs>();
  const Use logits = *use(loss_, field_offset<Ce>(&Ce::x)), dx = *use(gradient_, field_offset<Ce>(&Ce::y));
  const auto readers = [&](const Use& of) {
    return std::count_if(steps.begin(), steps.end(), [&](const Step& s) {
      return std::any_of(s.uses.begin(), s.uses.end(), [&](const Use& u) { return u.reads() && u.overlaps(of); });
    });
  };
  const auto is_temporary = [&](const Use& u) {
    return program_.segments[static_cast<size_t>(u.segment)].kind == Segment::Kind::kTemporary;
  };
  const Use* result = last_result(made);
  if (is_temporary(logits) && readers(logits) == 2) made.uses.erase(made.uses.begin() + (result - made.uses.data()));

  const auto &loss = steps[loss_].as<Ce>(), &gradient = steps[gradient_].as<Ce>();
  args.loss.smoothing = loss.smoothing;
  args.loss.ignore_index = loss.ignore_index;
  args.loss.scale = gradient.scale;
  args.loss.after = args.layers;
  const auto add = [&](Use u, uint32_t field) {
    u.field = field;
    made.uses.push_back(u);
  };
  add(*use(loss_, field_offset<Ce>(&Ce::labels)), loss_field(&MlpLoss::labels));
  add(*use(loss_, field_offset<Ce>(&Ce::y)), loss_field(&MlpLoss::losses));
  const Use& g = *use(gradient_, field_offset<Ce>(&Ce::g));
  std::optional<size_t> fill;
  if (const auto value = filled(g)) {
    args.loss.g_value = *value;
    if (readers(g) == 1 && is_temporary(g)) fill = sole_producer(program_, gradient_, g);
  } else {
    add(g, loss_field(&MlpLoss::g));
  }
  if (!backward_ || !is_temporary(dx) || readers(dx) > 1) add(dx, loss_field(&MlpLoss::dx));
  if (backward_) add_layers(made, *as_mlp(steps[*backward_]));

  std::vector<size_t> gone{loss_, gradient_};
  if (fill) gone.push_back(*fill);
  if (backward_) gone.push_back(*backward_);
  double ns = 0, flops = 0;
  for (size_t i : {forward_, loss_, gradient_, backward_.value_or(forward_)}) {
    if (i == forward_ && ns > 0) continue;
    ns += steps[i].work.ns_per_item * static_cast<double>(steps[i].work.items);
    flops += steps[i].work.flops;
  }
  made.work = {1, ns, flops, 0};
  steps[forward_] = std::move(made);
  std::sort(gone.rbegin(), gone.rend());
  for (size_t i : gone) steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(i));
}

}  // namespace

void fuse_loss(Program& program) { LossFuser(program).run(); }

}  // namespace quernel
