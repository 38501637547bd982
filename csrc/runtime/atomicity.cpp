// Orders a program so that a step happens whole or not at all: what may be refused runs before what can be seen.
#include <algorithm>

#include "runtime/fuse_steps.h"

namespace quernel {
namespace {

constexpr double kSmallNs = 20e3;
constexpr int64_t kSmallBytes = 64 << 10;

bool has_visible_write(const Program& program, const Step& step) {
  return std::any_of(step.uses.begin(), step.uses.end(), [&](const Use& u) { return program.visible(u); });
}

// Running statistics of BatchNorm and the like: cheap, and keeping their inputs alive costs little. Of a long program
// every step that is short beside it: then gradients wait in the arena.
bool is_small(const Step& step, double program_ns, bool is_long) {
  if (is_long) return is_brief(step, program_ns);
  int64_t bytes = 0;
  for (const Use& use : step.uses) bytes += use.nbytes;
  return bytes <= kSmallBytes && step.work.ns_per_item * static_cast<double>(step.work.items) <= kSmallNs;
}

// Moves small visible writes behind everything that does not depend on them.
void sink_small_writes(Program& program) {
  std::vector<Step> kept, sunk;  // both in reverse order
  const double program_ns = program.work_ns();
  const bool is_long = program.is_long();
  for (size_t i = program.steps.size(); i-- > 0;) {
    Step& step = program.steps[i];
    const bool free = has_visible_write(program, step) && is_small(step, program_ns, is_long) &&
                      std::none_of(kept.begin(), kept.end(), [&](const Step& s) { return conflict(step, s); });
    (free ? sunk : kept).push_back(std::move(step));
  }
  program.steps.assign(std::make_move_iterator(kept.rbegin()), std::make_move_iterator(kept.rend()));
  program.steps.insert(program.steps.end(), std::make_move_iterator(sunk.rbegin()),
                       std::make_move_iterator(sunk.rend()));
}

// Moves checks, and what they depend on, before the first visible write.
bool hoist_checks(Program& program) {
  auto& steps = program.steps;
  const auto first =
      std::find_if(steps.begin(), steps.end(), [&](const Step& s) { return has_visible_write(program, s); });
  std::vector<Step*> hoisted;  // checks after `first` and their dependencies, latest first
  std::vector<bool> is_hoisted(steps.size(), false);
  for (auto step = steps.end(); step != first;) {
    --step;
    const bool needed =
        is_check(*step) || std::any_of(hoisted.begin(), hoisted.end(), [&](Step* h) { return conflict(*step, *h); });
    if (!needed) continue;
    if (has_visible_write(program, *step)) return false;
    hoisted.push_back(&*step);
    is_hoisted[static_cast<size_t>(step - steps.begin())] = true;
  }
  std::vector<Step> ordered(std::make_move_iterator(steps.begin()), std::make_move_iterator(first));
  const auto begin = static_cast<size_t>(first - steps.begin());
  for (size_t i = begin; i < steps.size(); ++i) {
    if (is_hoisted[i]) ordered.push_back(std::move(steps[i]));
  }
  for (size_t i = begin; i < steps.size(); ++i) {
    if (!is_hoisted[i]) ordered.push_back(std::move(steps[i]));
  }
  steps = std::move(ordered);
  return true;
}

}  // namespace

bool order_for_atomicity(Program& program) {
  sink_small_writes(program);
  return hoist_checks(program);
}

}  // namespace quernel
