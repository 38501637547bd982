// The pattern of the fusion table that makes one step of the layers of an MLP. It needs a kernel that only CUDA has,
// which adds up as gemm_f32 does. A layer's result goes out where it has another reader; the step stands in the place
// of the later or the earlier one of the two that it is made from.
#include <algorithm>
#include <optional>

#include "runtime/fuse_steps.h"

namespace quernel {

uint32_t layer_offset(int index) {
  return field_offset(&MlpArgs::layer) + static_cast<uint32_t>(index) * static_cast<uint32_t>(sizeof(MlpLayer));
}

std::optional<Step> as_mlp(const Step& step) {
  if (step.is(&KernelTable::mlp_f32)) return step;
  if (!step.is(&KernelTable::gemm_f32)) return std::nullopt;
  const auto& gemm = step.as<GemmArgs>();
  if (gemm.batch_rank > 0 || gemm.k <= 0 || gemm.k > kMlpWidth || gemm.n > kMlpWidth || gemm.a_col != 1 ||
      (gemm.a_row != gemm.k && gemm.m > 1))
    return std::nullopt;
  Step made{"mlp",     kernel_ref(&KernelTable::mlp_f32), std::vector<std::byte>(sizeof(MlpArgs)), step.work, {},
            step.label};
  auto& args = *new (made.args.data()) MlpArgs;
  args.m = gemm.m;
  args.k = gemm.k;
  args.layers = 1;
  MlpLayer& layer = args.layer[0];
  layer.activation = gemm.activation;
  layer.n = static_cast<int32_t>(gemm.n);
  layer.b_row = static_cast<int32_t>(gemm.b_row);
  layer.b_col = static_cast<int32_t>(gemm.b_col);
  layer.group = static_cast<int32_t>(gemm.group);
  layer.pack = gemm.pack;
  const std::pair<uint32_t, uint32_t> fields[] = {
      {field_offset<GemmArgs>(&GemmArgs::b), field_offset<MlpLayer>(&MlpLayer::b)},
      {field_offset<GemmArgs>(&GemmArgs::c), field_offset<MlpLayer>(&MlpLayer::c)},
      {field_offset<GemmArgs, const void*>(&GemmArgs::bias), field_offset<MlpLayer, const void*>(&MlpLayer::bias)},
      {field_offset<GemmArgs, const void*>(&GemmArgs::residual),
       field_offset<MlpLayer, const void*>(&MlpLayer::residual)},
      {field_offset<GemmArgs, const void*>(&GemmArgs::gate), field_offset<MlpLayer, const void*>(&MlpLayer::gate)},
      {field_offset<GemmArgs, void*>(&GemmArgs::pre), field_offset<MlpLayer, void*>(&MlpLayer::pre)}};
  for (Use use : step.uses) {
    if (use.field == field_offset(&GemmArgs::a)) {
      use.field = field_offset(&MlpArgs::a);
    } else {
      for (const auto& [from, to] : fields) {
        if (use.field != from) continue;
        use.field = layer_offset(0) + to;
        break;
      }
    }
    made.uses.push_back(use);
  }
  return made;
}

const Use* last_result(const Step& mlp) {
  return mlp.use(layer_offset(mlp.as<MlpArgs>().layers - 1) + field_offset(&MlpLayer::c));
}

namespace {

class LayerFuser {
 public:
  explicit LayerFuser(Program& program) : program_(program) {}

  void run() {
    for (size_t i = 0; i < program_.steps.size();) {
      if (!join(i)) ++i;  // else one step less
    }
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      if (!program_.steps[i].is(&KernelTable::mlp_f32)) continue;
      for (int l = 0; l < program_.steps[i].as<MlpArgs>().layers; ++l) i -= drop_packing(i, l);
    }
  }

 private:
  // Only one step reads it, and nobody else.
  bool is_for_one(const Use& read) const { return sole_reader(program_, read).has_value(); }

  bool join(size_t second);
  bool drop_packing(size_t mlp, int index);

  Program& program_;
};

// Makes one step of step `second` and the one whose result it multiplies.
bool LayerFuser::join(size_t second) {
  auto& steps = program_.steps;
  const std::optional<Step> right = as_mlp(steps[second]);
  if (!right) return false;
  const Use& a = *right->use(field_offset(&MlpArgs::a));
  const auto first = sole_producer(program_, second, a);
  std::optional<Step> left = first ? as_mlp(steps[*first]) : std::nullopt;
  if (!left) return false;
  auto& args = left->as<MlpArgs>();
  const auto& more = right->as<MlpArgs>();
  const Use* result = last_result(*left);
  if (!result || result->segment != a.segment || args.layers + more.layers > kMlpLayers || args.m != more.m ||
      args.layer[args.layers - 1].n != more.k || conflict(*left, *right, result, field_offset(&MlpArgs::a)))
    return false;

  const auto is_visible = [&](const Use& use) { return program_.visible(use); };
  const bool later = !conflicts_between(program_, *left, *first, second);
  const bool earlier = !conflicts_between(program_, *right, *first, second) &&
                       std::none_of(right->uses.begin(), right->uses.end(), is_visible);
  if (!later && !earlier) return false;

  if (is_for_one(a)) left->uses.erase(left->uses.begin() + (result - left->uses.data()));
  for (Use use : right->uses) {
    if (use.field == field_offset(&MlpArgs::a)) continue;
    use.field += layer_offset(args.layers) - layer_offset(0);
    left->uses.push_back(use);
  }
  std::copy_n(more.layer, more.layers, args.layer + args.layers);
  args.layers += more.layers;
  const auto total = [](const Work& work) { return work.ns_per_item * static_cast<double>(work.items); };
  left->work = {1, total(left->work) + total(right->work), left->work.flops + right->work.flops, 0};
  steps[later ? second : *first] = std::move(*left);
  steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(later ? *first : second));
  return true;
}

// Has a layer read its weights as they lie, in place of a step that packs them for it alone: a launch costs more than
// the kernel's own turning of them.
bool LayerFuser::drop_packing(size_t mlp, int index) {
  auto& steps = program_.steps;
  MlpLayer& layer = steps[mlp].as<MlpArgs>().layer[index];
  const uint32_t field = layer_offset(index) + field_offset(&MlpLayer::b);
  const Use b = *steps[mlp].use(field);
  const auto packing = sole_producer(program_, mlp, b);
  if (layer.pack || !packing || !is_for_one(b) || !steps[*packing].is(&KernelTable::pack_f32)) return false;
  const auto& pack = steps[*packing].as<PackArgs>();
  if (pack.batch != 1 || pack.taps != 1 || pack.src_offset != 0) return false;
  Step unpacked = steps[*packing];  // as if it ran where the weights are read
  std::erase_if(unpacked.uses, [](const Use& use) { return use.writes(); });
  if (conflicts_between(program_, unpacked, *packing, mlp + 1)) return false;
  layer.pack = true;
  layer.b_row = static_cast<int32_t>(pack.src_row);
  layer.b_col = static_cast<int32_t>(pack.src_col);
  for (Use& use : steps[mlp].uses) {
    if (use.field != field) continue;
    use = unpacked.uses.front();
    use.field = field;
  }
  steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(*packing));
  return true;
}

}  // namespace

void fuse_layers(Program& program) { LayerFuser(program).run(); }

}  // namespace quernel
