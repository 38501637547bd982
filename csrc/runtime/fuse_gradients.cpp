// The patterns of the fusion table, in plans for CUDA, that make one step of the gradients of an MLP's parameters over
// one batch: sums over its rows, in the order of gemm_f32 and of reduce. The step stands in the place of the last of
// those that it is made from, takes the mean of the losses along, and, where these gradients are all that an
// optimizer's step reads, that step as well. Counting the step, which comes before the update, goes into an MLP that
// ran earlier. Checks go before all of it.
#include <algorithm>
#include <iterator>

#include "runtime/fuse_steps.h"

namespace quernel {
namespace {

constexpr int64_t kLineBytes = 64;  // parameters begin on cache lines of a segment

struct Gradient {
  std::vector<size_t> steps;  // that it is made from, in order
  Use g, x, y, parts;         // fields of ParamGrad
  bool is_weight = false, has_parts = false;
  int64_t rows = 0, n = 0, k = 1;

  bool takes(size_t step) const { return std::find(steps.begin(), steps.end(), step) != steps.end(); }
};

using Gradients = std::vector<Gradient>;

uint32_t grad_field(size_t i, uint32_t field) {
  return field_offset(&ParamGradsArgs::grad) + static_cast<uint32_t>(i) * static_cast<uint32_t>(sizeof(ParamGrad)) +
         field;
}

class GradientFuser {
 public:
  explicit GradientFuser(Program& program) : program_(program) {}

  void run() {
    move_checks_up();
    while (const auto made = join_gradients()) {
      const size_t with_mean = take_mean(*made);
      take_update(with_mean);
    }
  }

 private:
  const Step& at(size_t i) const { return program_.steps[i]; }
  void move_checks_up();
  std::optional<Gradient> weight(size_t i) const;
  std::optional<Gradient> bias(size_t i) const;
  bool find_input(Gradient& made, size_t product) const;
  Gradients find() const;
  Gradients choose() const;
  void keep_movable(Gradients& chosen) const;
  bool may_join(const Gradients& chosen, const Gradient& one, size_t last) const;
  std::optional<size_t> join_gradients();
  size_t take_mean(size_t gradients);
  void take_update(size_t gradients);
  std::optional<size_t> find_update(size_t gradients) const;
  void count_step(size_t update);
  void erase(size_t i) { program_.steps.erase(program_.steps.begin() + static_cast<std::ptrdiff_t>(i)); }

  Program& program_;
};

// Moves checks before all that they do not depend on: the host waits for them, and what they guard may begin earlier.
void GradientFuser::move_checks_up() {
  auto& steps = program_.steps;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!is_check(steps[i])) continue;
    size_t to = i;
    while (to > 0 && !is_check(steps[to - 1]) && !conflict(steps[i], steps[to - 1])) --to;
    std::rotate(steps.begin() + static_cast<std::ptrdiff_t>(to), steps.begin() + static_cast<std::ptrdiff_t>(i),
                steps.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
}

// What a gradient's product reads as B, if its rows follow each other: as it lies, or packed for this product alone.
bool GradientFuser::find_input(Gradient& made, size_t product) const {
  const auto& g = at(product).as<GemmArgs>();
  made.x = *at(product).use(field_offset(&GemmArgs::b));
  if (g.pack ? g.b_row == g.n && g.b_col == 1 : g.b_row == g.n && g.group == kPackWidth<float>) return true;
  const auto packing = sole_producer(program_, product, made.x);
  if (g.pack || !packing || !at(*packing).is(&KernelTable::pack_f32) || sole_reader(program_, made.x) != product)
    return false;
  const auto& pack = at(*packing).as<PackArgs>();
  if (pack.batch != 1 || pack.taps != 1 || pack.src_offset != 0 || pack.src_row != g.n || pack.src_col != 1)
    return false;
  made.x = *at(*packing).use(field_offset(&PackArgs::src));
  made.steps.insert(made.steps.begin(), *packing);
  return true;
}

// A product of one part, or what adds up several for one weight.
std::optional<Gradient> GradientFuser::weight(size_t i) const {
  const Step& step = at(i);
  Gradient made;
  made.steps = {i};
  made.is_weight = true;
  if (step.is(&KernelTable::param_grads_f32)) {
    const auto& a = step.as<ParamGradsArgs>();
    if (a.grads != 1 || a.split != kGradPart || a.rows > kGradRows) return std::nullopt;
    made.rows = a.rows;
    made.n = a.grad[0].n;
    made.k = a.grad[0].k;
    made.has_parts = true;
    made.g = *step.use(grad_field(0, field_offset(&ParamGrad::g)));
    made.x = *step.use(grad_field(0, field_offset(&ParamGrad::x)));
    made.parts = *step.use(grad_field(0, field_offset(&ParamGrad::parts)));
    made.y = *step.use(grad_field(0, field_offset(&ParamGrad::y)));
    return made;
  }
  if (!step.is(&KernelTable::gemm_f32)) return std::nullopt;
  const auto& g = step.as<GemmArgs>();
  if (g.batch_rank > 0 || g.a_row != 1 || g.a_col != g.m || g.activation != Activation::kNone ||
      step.uses.size() != 3 || g.m * g.n > kGradResults || g.k < 1 || g.k > kGradPart)
    return std::nullopt;
  made.rows = g.k;
  made.n = g.m;
  made.k = g.n;
  made.g = *step.use(field_offset(&GemmArgs::a));
  made.y = *step.use(field_offset(&GemmArgs::c));
  if (!find_input(made, i)) return std::nullopt;
  return made;
}

std::optional<Gradient> GradientFuser::bias(size_t i) const {
  const Step& step = at(i);
  const auto is_sum = [&](size_t s, int64_t rows, int64_t n) {
    if (!at(s).is(&KernelTable::reduce)) return false;
    const auto& r = at(s).as<ReduceArgs>();
    return r.op == ReduceOp::kSum && r.dtype == DType::kFloat32 && r.divisor == 1 && r.outer == 1 &&
           r.block == kGradPart && r.reduced == rows && r.inner == n;
  };
  if (!step.is(&KernelTable::reduce)) return std::nullopt;
  const auto& r = step.as<ReduceArgs>();
  if (!is_sum(i, r.reduced, r.inner) || r.inner < 2 || r.inner > kGradResults || r.reduced > kGradRows)
    return std::nullopt;
  Gradient made;
  made.steps = {i};
  made.rows = r.reduced;
  made.n = r.inner;
  made.g = *step.use(field_offset(&ReduceArgs::x));
  made.y = *step.use(field_offset(&ReduceArgs::y));
  if (r.reduced <= kGradPart) return made;
  const auto sum = sole_reader(program_, made.y);
  if (!sum || !is_sum(*sum, (r.reduced + kGradPart - 1) / kGradPart, r.inner)) return std::nullopt;
  made.has_parts = true;
  made.parts = made.y;
  made.y = *at(*sum).use(field_offset(&ReduceArgs::y));
  made.steps.push_back(*sum);
  return made;
}

Gradients GradientFuser::find() const {
  Gradients found;
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    const auto is_taken = [&](const Gradient& other) { return other.takes(i); };
    if (std::any_of(found.begin(), found.end(), is_taken)) continue;
    auto made = weight(i);
    if (!made) made = bias(i);
    if (made) found.push_back(std::move(*made));
  }
  return found;
}

size_t last_step(const Gradients& chosen) {
  size_t last = 0;
  for (const Gradient& g : chosen) last = std::max(last, g.steps.back());
  return last;
}

// Whether a gradient may wait for step `last`, and does not depend on another.
bool GradientFuser::may_join(const Gradients& chosen, const Gradient& one, size_t last) const {
  for (const Gradient& other : chosen) {
    if (&other == &one) continue;
    for (size_t a : one.steps) {
      for (size_t b : other.steps) {
        if (conflict(at(a), at(b))) return false;
      }
    }
  }
  for (size_t s : one.steps) {
    for (size_t i = s + 1; i < last; ++i) {
      const auto takes = [&](const Gradient& g) { return g.takes(i); };
      if (std::none_of(chosen.begin(), chosen.end(), takes) && conflict(at(s), at(i))) return false;
    }
  }
  return true;
}

// Leaves those that may all run where the last of them ends.
void GradientFuser::keep_movable(Gradients& chosen) const {
  for (size_t i = 0; i < chosen.size();) {
    if (may_join(chosen, chosen[i], last_step(chosen))) {
      ++i;
    } else {
      chosen.erase(chosen.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;
    }
  }
}

// Some that may be one step: over as many rows as one of the weights'.
Gradients GradientFuser::choose() const {
  const Gradients found = find();
  for (const Gradient& weight : found) {
    if (!weight.is_weight) continue;
    Gradients chosen;
    std::copy_if(found.begin(), found.end(), std::back_inserter(chosen),
                 [&](const Gradient& g) { return g.rows == weight.rows; });
    keep_movable(chosen);
    if (chosen.size() < 2) continue;
    chosen.resize(std::min(chosen.size(), static_cast<size_t>(kParamGrads)));  // those that are left move as well
    return chosen;
  }
  return {};
}

// Makes one step of some gradients; returns its place.
std::optional<size_t> GradientFuser::join_gradients() {
  const Gradients chosen = choose();
  if (chosen.empty()) return std::nullopt;
  auto& steps = program_.steps;
  const size_t last = last_step(chosen);
  Step made{"gradients",
            kernel_ref(&KernelTable::param_grads_f32),
            std::vector<std::byte>(sizeof(ParamGradsArgs)),
            {1, 0, 0, 0},
            {},
            steps[last].label};
  auto& args = *new (made.args.data()) ParamGradsArgs;
  args.rows = chosen.front().rows;
  args.split = kGradPart;
  args.grads = static_cast<int32_t>(chosen.size());
  std::vector<size_t> gone;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const Gradient& from = chosen[i];
    args.grad[i].n = static_cast<int32_t>(from.n);
    args.grad[i].k = static_cast<int32_t>(from.k);
    const auto add = [&](Use use, uint32_t field) {
      use.field = grad_field(i, field);
      made.uses.push_back(use);
    };
    add(from.g, field_offset(&ParamGrad::g));
    if (from.is_weight) add(from.x, field_offset(&ParamGrad::x));
    if (from.has_parts) add(from.parts, field_offset(&ParamGrad::parts));
    add(from.y, field_offset(&ParamGrad::y));
    for (size_t s : from.steps) {
      gone.push_back(s);
      made.work.ns_per_item += steps[s].work.ns_per_item * static_cast<double>(steps[s].work.items);
      made.work.flops += steps[s].work.flops;
    }
  }
  steps[last] = std::move(made);
  std::sort(gone.rbegin(), gone.rend());
  size_t place = last;
  for (size_t s : gone) {
    if (s == last) continue;
    erase(s);
    --place;
  }
  return place;
}

// Takes a mean of losses along that nobody needs before; returns the step's place.
size_t GradientFuser::take_mean(size_t gradients) {
  using Mean = CrossEntropyMeanArgs;
  for (size_t i = 0; i < gradients; ++i) {
    const Step& mean = at(i);
    if (!mean.is(&KernelTable::cross_entropy_mean) || mean.as<Mean>().dtype != DType::kFloat32 ||
        conflicts_between(program_, mean, i, gradients + 1))
      continue;
    Step& step = program_.steps[gradients];
    for (Use use : mean.uses) {
      use.field += field_offset(&ParamGradsArgs::mean);
      step.uses.push_back(use);
    }
    step.as<ParamGradsArgs>().mean = mean.as<Mean>();
    step.work.ns_per_item += mean.work.ns_per_item * static_cast<double>(mean.work.items);
    erase(i);
    return gradients - 1;
  }
  return gradients;
}

// Whether these gradients make up all of a segment: gaps between them are shorter than a line, in which no parameter
// begins.
bool fill_segment(const Step& gradients, const Use& segment) {
  std::vector<const Use*> parts;
  const int count = gradients.as<ParamGradsArgs>().grads;
  for (int i = 0; i < count; ++i)
    parts.push_back(gradients.use(grad_field(static_cast<size_t>(i), field_offset(&ParamGrad::y))));
  std::sort(parts.begin(), parts.end(), [](const Use* a, const Use* b) { return a->offset < b->offset; });
  int64_t end = segment.offset;
  for (const Use* part : parts) {
    if (part->segment != segment.segment || part->offset < end || part->offset - end >= kLineBytes) return false;
    end = part->offset + part->nbytes;
  }
  return end <= segment.offset + segment.nbytes && segment.offset + segment.nbytes - end < kLineBytes;
}

std::optional<size_t> GradientFuser::find_update(size_t gradients) const {
  for (size_t i = gradients + 1; i < program_.steps.size(); ++i) {
    const Step& step = at(i);
    if (!step.is(&KernelTable::adam) && !step.is(&KernelTable::sgd)) continue;
    const Use& grad = *step.use(field_offset<UpdateArgs>(&UpdateArgs::grad));
    if (step.as<UpdateArgs>().dtype != DType::kFloat32 || !fill_segment(at(gradients), grad)) continue;
    // The update writes nothing that a gradient is made from, and nobody needs these gradients, or their memory,
    // before.
    bool apart = !conflicts_between(program_, at(gradients), gradients, i);
    for (const Use& use : at(gradients).uses) {
      for (const Use& other : step.uses) apart = apart && (!other.writes() || !use.overlaps(other));
    }
    if (apart) return i;
  }
  return std::nullopt;
}

void GradientFuser::take_update(size_t gradients) {
  const auto found = find_update(gradients);
  if (!found) return;
  Step& update = program_.steps[*found];
  Step made = std::move(program_.steps[gradients]);
  auto& args = made.as<ParamGradsArgs>();
  args.rule = update.is(&KernelTable::adam) ? GradUpdate::kAdam : GradUpdate::kSgd;
  args.update = update.as<UpdateArgs>();
  for (Use use : update.uses) {
    use.field += field_offset(&ParamGradsArgs::update);
    made.uses.push_back(use);
  }
  made.work.ns_per_item += update.work.ns_per_item * static_cast<double>(update.work.items);
  update = std::move(made);
  erase(gradients);
  count_step(*found - 1);
}

// Lets an MLP count the step that update `update` reads.
void GradientFuser::count_step(size_t update) {
  for (size_t i = 0; i < update; ++i) {
    const Step& count = at(i);
    if (!count.is(&KernelTable::advance_step) || !conflict(count, at(update))) continue;
    for (size_t m = i; m-- > 0 && !is_check(at(m)) && !conflict(count, at(m));) {
      Step& mlp = program_.steps[m];
      if (!mlp.is(&KernelTable::mlp_f32) || mlp.use(field_offset(&MlpArgs::step))) continue;
      Use use = count.uses.front();
      use.field = field_offset(&MlpArgs::step);
      mlp.uses.push_back(use);
      erase(i);
      return;
    }
  }
}

}  // namespace

void fuse_gradients(Program& program) { GradientFuser(program).run(); }

}  // namespace quernel
