#include "checkpoint/lora.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"
#include "checkpoint/changed_weight.h"
#include "checkpoint/checkpoint.h"

namespace zoe {

namespace fs = std::filesystem;

namespace {

// What a key's ending says that its tensor is.
enum class Role : std::uint8_t {
  down,
  up,
  up_bias,
  alpha,
  difference,
  bias_difference,
  modulation_difference,
  value,
  dora_scale,
  magnitude,
  hada_w1_a,
  hada_w1_b,
  hada_w2_a,
  hada_w2_b,
  lokr_w1,
  lokr_w1_a,
  lokr_w1_b,
  lokr_w2,
  lokr_w2_a,
  lokr_w2_b,
  tucker,
};

struct Ending {
  std::string_view text;
  Role role;
};
constexpr Ending kEndings[] = {
    {".lora_A.weight", Role::down},
    {".lora_A", Role::down},
    {".lora_down.weight", Role::down},
    {".lora_down", Role::down},
    {".lora.down.weight", Role::down},
    {"_lora.down.weight", Role::down},
    {".lora_linear_layer.down.weight", Role::down},
    {".lora_B.weight", Role::up},
    {".lora_B", Role::up},
    {".lora_up.weight", Role::up},
    {".lora_up", Role::up},
    {".lora.up.weight", Role::up},
    {"_lora.up.weight", Role::up},
    {".lora_linear_layer.up.weight", Role::up},
    {".lora_B.bias", Role::up_bias},
    {".lora_up.bias", Role::up_bias},
    {".alpha", Role::alpha},
    {".diff", Role::difference},
    {".w_norm", Role::difference},
    {".diff_b", Role::bias_difference},
    {".b_norm", Role::bias_difference},
    {".diff_m", Role::modulation_difference},
    {".set_weight", Role::value},
    {".dora_scale", Role::dora_scale},
    {".lora_magnitude_vector.weight", Role::magnitude},
    {".lora_magnitude_vector", Role::magnitude},
    {".hada_w1_a", Role::hada_w1_a},
    {".hada_w1_b", Role::hada_w1_b},
    {".hada_w2_a", Role::hada_w2_a},
    {".hada_w2_b", Role::hada_w2_b},
    {".lokr_w1", Role::lokr_w1},
    {".lokr_w1_a", Role::lokr_w1_a},
    {".lokr_w1_b", Role::lokr_w1_b},
    {".lokr_w2", Role::lokr_w2},
    {".lokr_w2_a", Role::lokr_w2_a},
    {".lokr_w2_b", Role::lokr_w2_b},
    {".lora_mid.weight", Role::tucker},
    {".hada_t1", Role::tucker},
    {".hada_t2", Role::tucker},
    {".lokr_t2", Role::tucker},
};

// PEFT's own dumps have the adapter's name behind what it is: "X.lora_A.default.weight" is "X.lora_A.weight".
std::string without_adapter(std::string_view key) {
  for (const std::string_view mark : {".lora_A.", ".lora_B.", ".lora_magnitude_vector."}) {
    const std::size_t at = key.find(mark);
    if (at == std::string_view::npos) continue;
    const std::size_t word = at + mark.size(), end = std::min(key.find('.', word), key.size());
    const std::string_view adapter = key.substr(word, end - word);
    if (adapter == "weight" || adapter == "bias") continue;
    return std::string(key.substr(0, word - 1)).append(key.substr(end));
  }
  return std::string(key);
}

struct Spelled {
  std::string module;
  Role role;
};
std::optional<Spelled> split(std::string_view key) {
  const std::string plain = without_adapter(key);
  for (const Ending& ending : kEndings)
    if (plain.size() > ending.text.size() && plain.ends_with(ending.text))
      return Spelled{plain.substr(0, plain.size() - ending.text.size()), ending.role};
  return {};
}

// Underscore names cannot be parsed (cross_attn_k_img), only looked up; so all are looked up with underscores.
std::string underscored(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '.', '_');
  return text;
}

constexpr std::string_view kPrefixes[] = {"base_model_",
                                          "model_",
                                          "lora_transformer_",
                                          "transformer_",
                                          "diffusion_model_",
                                          "lora_unet_",
                                          "lycoris_",
                                          "unet_",
                                          "module_",
                                          "dit_",
                                          "net_",
                                          "_"};

// A module: the tensors that changes of one name go to.
struct Module {
  std::string name;                        // as the model calls it
  const ExpectedTensor* weight = nullptr;  // NAME.weight, or the tensor NAME itself
  const ExpectedTensor* bias = nullptr;
  bool is_tensor = false;
};

class Modules {
 public:
  Modules(std::span<const ExpectedTensor> tensors, std::span<const TensorAlias> other_names) {
    std::unordered_map<std::string_view, std::vector<std::string_view>> names;
    for (const ExpectedTensor& tensor : tensors) names[tensor.name].push_back(tensor.name);
    for (const TensorAlias& alias : other_names) names[alias.name].push_back(alias.alias);
    for (const ExpectedTensor& tensor : tensors)
      for (const std::string_view name : names[tensor.name]) {
        const auto add = [&](std::string_view module) -> Module& {
          Module& made = by_name_[underscored(module)];
          if (made.name.empty()) {
            known_.emplace_back(module);
            made.name = tensor.name.substr(0, tensor.name.size() - (name.size() - module.size()));
          }
          return made;
        };
        constexpr std::string_view kWeight = ".weight", kBias = ".bias";
        if (name.ends_with(kWeight)) add(name.substr(0, name.size() - kWeight.size())).weight = &tensor;
        else if (name.ends_with(kBias)) add(name.substr(0, name.size() - kBias.size())).bias = &tensor;
        Module& itself = by_name_[underscored(name)];
        itself.name = tensor.name;
        itself.weight = &tensor;
        itself.is_tensor = true;
      }
  }

  const Module* find(std::string_view spelled) const {
    const std::string key = underscored(spelled);
    for (std::string_view rest = key;;) {
      if (const auto found = by_name_.find(std::string(rest)); found != by_name_.end()) return &found->second;
      const auto* const prefix =
          std::find_if(std::begin(kPrefixes), std::end(kPrefixes), [&](std::string_view each) { return rest.starts_with(each); });
      if (prefix == std::end(kPrefixes)) return nullptr;
      rest.remove_prefix(prefix->size());
    }
  }

  std::string near(std::string_view spelled) const { return nearest(spelled, known_); }

 private:
  std::unordered_map<std::string, Module> by_name_;
  std::vector<std::string> known_;
};

std::int64_t rows_of(const Shape& shape) { return shape.rank() > 1 ? shape.dim(0) : 1; }
std::int64_t columns_of(const Shape& shape) { return rows_of(shape) > 0 ? shape.count() / rows_of(shape) : 0; }

// The file that Diffusers or PEFT writes into a folder.
fs::path lora_in(const fs::path& folder) {
  std::error_code status;
  for (const char* name :
       {"pytorch_lora_weights.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.bin", "adapter_model.bin"})
    if (fs::exists(folder / name, status)) return folder / name;
  fail(ErrorKind::invalid_argument, folder.string(),
       "no LoRA in the folder: got neither pytorch_lora_weights.safetensors nor adapter_model.safetensors. Give the file itself.");
}

}  // namespace

// LoRAs of PEFT have no alpha among the tensors: it is in Diffusers' metadata, or in the adapter_config.json beside the file.
struct LoraFile::Alphas {
  std::optional<double> all;
  std::map<std::string, double> patterns;  // by module, or by the end of its name
  bool of_root = false;                    // alpha / sqrt(r)

  Alphas(const JsonObject& config, const std::string& prefix) {
    constexpr double kMost = 1e9;
    if (config.has(prefix + "lora_alpha")) all = config.number(prefix + "lora_alpha", -kMost, kMost);
    of_root = config.boolean(prefix + "use_rslora", false);
    if (!config.has(prefix + "alpha_pattern")) return;
    const JsonObject by_module = config.object(prefix + "alpha_pattern");
    for (const std::string& module : by_module.keys()) patterns[module] = by_module.number(module, -kMost, kMost);
  }

  std::optional<double> of(std::string_view module) const {
    for (const auto& [pattern, alpha] : patterns)
      if (module == pattern || module.ends_with("." + pattern)) return alpha;
    return all;
  }
};

LoraFile::LoraFile(const fs::path& given) {
  std::error_code status;
  const fs::path path = fs::is_directory(given, status) ? lora_in(given) : given;
  name_ = path.filename().string();
  check(fs::exists(path, status), ErrorKind::invalid_argument, name_, "no such file: got {}. Check the path.", path.string());
  const Checkpoint checkpoint(path, name_);
  tensors_ = checkpoint.tensors();
  check(!tensors_.empty(), ErrorKind::invalid_argument, name_, "no tensors: got an empty file. Download or copy it again.");
  check(std::any_of(tensors_.begin(), tensors_.end(), [](const TensorEntry& each) { return split(each.name).has_value(); }),
        ErrorKind::invalid_argument, name_,
        "no LoRA: got {} tensors such as {}, expected names that end as lora_A.weight, lora_down.weight, diff, ... do. A whole "
        "model is given "
        "with --model-path.",
        tensors_.size(), in_quotes(tensors_.front().name));
  constexpr const char* kMetadata = "lora_adapter_metadata";
  if (const auto found = checkpoint.metadata().find(kMetadata); found != checkpoint.metadata().end())
    alphas_ = std::make_shared<Alphas>(parse_json_object(found->second, fmt::format("{}, {}", name_, kMetadata)), "transformer.");
  const fs::path beside = path.parent_path() / "adapter_config.json";
  constexpr std::size_t kMostBytes = 1 << 20;
  if (!alphas_ && name_.starts_with("adapter_model.") && fs::exists(beside, status))
    alphas_ = std::make_shared<Alphas>(read_json_object(beside, "adapter_config.json", kMostBytes), "");
}

class LoraFile::Fitting {
 public:
  Fitting(const LoraFile& file, std::string_view component, std::span<const ExpectedTensor> tensors,
          std::span<const TensorAlias> other_names, double strength)
      : file_(file),
        component_(component),
        modules_(tensors, other_names),
        strength_(strength),
        identity_(file.tensors_.front().file) {}

  LoraFit go() {
    std::map<std::string, std::pair<const Module*, Tensors>> modules;  // by the model's name: a file may spell one in two ways
    std::string first_unknown;
    for (const TensorEntry& tensor : file_.tensors_) {
      const std::optional<Spelled> spelled = split(tensor.name);
      const Module* module = nullptr;
      if (spelled && spelled->role == Role::modulation_difference) {
        for (const char* table : {".modulation", ".scale_shift_table", ""})
          if (!module) module = modules_.find(spelled->module + table);
        if (module && !module->is_tensor) module = nullptr;
      } else if (spelled) {
        module = modules_.find(spelled->module);
        const bool of_bias = spelled->role == Role::bias_difference || spelled->role == Role::up_bias;
        if (module && !(of_bias ? module->bias : module->weight)) module = nullptr;
      }
      if (!module) {
        if (fit_.unknown.empty()) first_unknown = spelled ? spelled->module : tensor.name;
        fit_.unknown.push_back(tensor.name);
        continue;
      }
      const auto [at, is_new] =
          modules.try_emplace(module->name, module, Tensors()).first->second.second.emplace(spelled->role, &tensor);
      check(is_new, ErrorKind::invalid_argument, file_.name_,
            "two keys for one thing: got {} and {} for {}, expected one. Take one of them out.", in_quotes(at->second->name),
            in_quotes(tensor.name), module->name);
    }
    for (const auto& [name, module] : modules) add(*module.first, module.second);
    if (!fit_.unknown.empty()) fit_.nearest = modules_.near(first_unknown);
    return std::move(fit_);
  }

 private:
  using Tensors = std::map<Role, const TensorEntry*>;

  static const TensorEntry* find(const Tensors& tensors, Role role) {
    const auto found = tensors.find(role);
    return found == tensors.end() ? nullptr : found->second;
  }

  ChangeTensor tensor(const TensorEntry& entry) const { return {weight_of(entry, file_.name_), file_.name_, entry.name}; }

  // The other half of `one`, which a file that has the one must have.
  const TensorEntry& half(const Tensors& tensors, Role other, const TensorEntry* one, std::string_view other_name) const {
    const TensorEntry* const found = find(tensors, other);
    check(found != nullptr, ErrorKind::invalid_argument, file_.name_,
          "half a pair: got {} and no {}, expected both. The file is cut or broken; download or make it again.",
          in_quotes(one ? one->name : ""), other_name);
    return *found;
  }

  [[noreturn]] void refuse_shape(const TensorEntry& got, std::string_view expected, const ExpectedTensor& of) const {
    fail(ErrorKind::invalid_argument, file_.name_,
         "bad shape of {}: got {}, expected {} for {} {} of {}. The LoRA is of another model, or of another size of it.",
         in_quotes(got.name), got.shape.str(), expected, of.name, of.shape.str(), component_);
  }

  // A pair of factors [rows,r], [r,columns]; returns r.
  std::int64_t check_pair(const TensorEntry& up, const TensorEntry& down, std::int64_t rows, std::int64_t columns,
                          const ExpectedTensor& of) const {
    if (down.shape.rank() < 2 || down.shape.dim(0) < 1 || down.shape.count(1, down.shape.rank()) != columns)
      refuse_shape(down, fmt::format("[r,{}]", columns), of);
    const std::int64_t rank = down.shape.dim(0);
    if (up.shape.rank() < 2 || up.shape.dim(0) != rows || up.shape.count(1, up.shape.rank()) != rank)
      refuse_shape(up, fmt::format("[{},{}]", rows, rank), of);
    return rank;
  }

  double number_of(const TensorEntry& alpha) const {
    check(alpha.shape.count() == 1, ErrorKind::invalid_argument, file_.name_,
          "bad shape of {}: got {}, expected one number. Check the file.", in_quotes(alpha.name), alpha.shape.str());
    if (alpha.file)
      alpha.file->fetch(static_cast<std::size_t>(alpha.bytes.data() - alpha.file->bytes().data()), alpha.bytes.size());
    double value = 0;
    if (alpha.dtype() == "I64") {  // torch.tensor(16) of a trainer
      std::int64_t whole;
      std::memcpy(&whole, alpha.bytes.data(), sizeof whole);
      value = static_cast<double>(whole);
    } else {
      float number;
      weight_of(alpha, file_.name_)->read(0, 1, DType::f32, &number);
      value = static_cast<double>(number);
    }
    check(std::isfinite(value), ErrorKind::invalid_argument, file_.name_,
          "bad value of {}: got {}, expected a finite number. The file is broken; download or make it again.",
          in_quotes(alpha.name), value);
    return value;
  }

  // alpha / r, or 1 where nothing says alpha.
  double scale(const Module& module, const Tensors& tensors, std::int64_t rank) const {
    const auto r = static_cast<double>(rank);
    if (const TensorEntry* alpha = find(tensors, Role::alpha)) return number_of(*alpha) / r;
    if (!file_.alphas_) return 1;
    const std::optional<double> alpha = file_.alphas_->of(module.name);
    return alpha ? *alpha / (file_.alphas_->of_root ? std::sqrt(r) : r) : 1;
  }

  using Change = std::function<WeightPtr(WeightPtr base, double strength)>;

  void change(const ExpectedTensor& tensor, const Change& what, std::vector<LowRankChange> low_rank = {}) {
    fit_.changes[tensor.name].push_back({identity_, strength_,
                                         [what, strength = strength_](WeightPtr base) { return what(std::move(base), strength); },
                                         std::move(low_rank)});
  }

  // One change of the weight after the other; DoRA's magnitude is of all that are sums.
  void add(const Module& module, const Tensors& tensors) {
    if (const TensorEntry* tucker = find(tensors, Role::tucker))
      fail(ErrorKind::unsupported, file_.name_, "{} is not supported: got a Tucker factor of a convolution, expected none.",
           in_quotes(tucker->name));
    std::vector<Change> sums;
    std::vector<LowRankChange> low_rank = add_low_rank_of(module, tensors, sums);
    add_hadamard_of(module, tensors, sums);
    add_kronecker_of(module, tensors, sums);
    const TensorEntry* const alpha = find(tensors, Role::alpha);
    const TensorEntry* const dora = find(tensors, Role::dora_scale);
    const TensorEntry* const magnitude = dora ? dora : find(tensors, Role::magnitude);
    for (const TensorEntry* lonely : {alpha, magnitude})
      check(!lonely || !sums.empty(), ErrorKind::invalid_argument, file_.name_,
            "half a pair: got {} and nothing that it belongs to. The file is cut or broken; download or make it again.",
            in_quotes(lonely ? lonely->name : ""));
    const auto summed = [sums](WeightPtr base, double strength) {
      for (const Change& each : sums) base = each(std::move(base), strength);
      return base;
    };
    if (magnitude) {
      const bool of_columns = check_magnitude(*module.weight, *magnitude, dora == nullptr);
      change(*module.weight, [summed, of_columns, m = tensor(*magnitude)](WeightPtr base, double strength) {
        return set_magnitude(base, summed(base, 1), m, of_columns, strength);
      });
    } else if (!sums.empty()) {
      if (sums.size() > low_rank.size()) low_rank.clear();
      change(*module.weight, summed, std::move(low_rank));
    }
    for (const Role role : {Role::difference, Role::modulation_difference})
      if (const TensorEntry* difference = find(tensors, role)) add_difference_to(*module.weight, *difference, 1);
    if (const TensorEntry* difference = find(tensors, Role::bias_difference)) add_difference_to(*module.bias, *difference, 1);
    if (const TensorEntry* value = find(tensors, Role::value)) {
      check_whole(*module.weight, *value);
      change(*module.weight,
             [v = tensor(*value)](WeightPtr base, double strength) { return set_value(std::move(base), v, strength); });
    }
  }

  // Adds to `sums`, and returns what it added.
  std::vector<LowRankChange> add_low_rank_of(const Module& module, const Tensors& tensors, std::vector<Change>& sums) {
    const TensorEntry *one = find(tensors, Role::down), *other = find(tensors, Role::up), *bias = find(tensors, Role::up_bias);
    if (!one && !other) {
      check(!bias, ErrorKind::invalid_argument, file_.name_,
            "half a pair: got {} and no lora_A and lora_B. The file is cut or broken.", in_quotes(bias ? bias->name : ""));
      return {};
    }
    const TensorEntry& down = half(tensors, Role::down, other, "lora_A or lora_down");
    const TensorEntry& up = half(tensors, Role::up, one, "lora_B or lora_up");
    const ExpectedTensor& weight = *module.weight;
    const std::int64_t rank = check_pair(up, down, rows_of(weight.shape), columns_of(weight.shape), weight);
    const double factor = scale(module, tensors, rank);
    sums.emplace_back([u = tensor(up), d = tensor(down), factor](WeightPtr base, double strength) {
      return add_low_rank(std::move(base), u, d, strength * factor);
    });
    if (bias) add_difference_to(*module.bias, *bias, factor);
    return {{tensor(up), tensor(down), strength_ * factor}};
  }

  void add_hadamard_of(const Module& module, const Tensors& tensors, std::vector<Change>& sums) {
    constexpr std::pair<Role, std::string_view> kFactors[] = {{Role::hada_w1_a, "hada_w1_a"},
                                                              {Role::hada_w1_b, "hada_w1_b"},
                                                              {Role::hada_w2_a, "hada_w2_a"},
                                                              {Role::hada_w2_b, "hada_w2_b"}};
    const TensorEntry* any = nullptr;
    for (const auto& [role, name] : kFactors)
      if (!any) any = find(tensors, role);
    if (!any) return;
    std::vector<const TensorEntry*> f;
    for (const auto& [role, name] : kFactors) f.push_back(&half(tensors, role, any, name));
    const ExpectedTensor& weight = *module.weight;
    const std::int64_t rows = rows_of(weight.shape), columns = columns_of(weight.shape);
    const std::int64_t rank = check_pair(*f[0], *f[1], rows, columns, weight);
    check_pair(*f[2], *f[3], rows, columns, weight);
    const double factor = scale(module, tensors, rank);
    sums.emplace_back(
        [a1 = tensor(*f[0]), b1 = tensor(*f[1]), a2 = tensor(*f[2]), b2 = tensor(*f[3]), factor](WeightPtr base, double strength) {
          return add_hadamard(std::move(base), a1, b1, a2, b2, strength * factor);
        });
  }

  // A factor of a Kronecker product, whole or as two factors itself; `rank` becomes that of the latter.
  std::optional<ChangeMatrix> kronecker_factor(const Module& module, const Tensors& tensors, Role whole, Role a, Role b,
                                               std::string_view name, std::optional<std::int64_t>& rank) const {
    const TensorEntry *w = find(tensors, whole), *first = find(tensors, a), *second = find(tensors, b);
    check(!w || (!first && !second), ErrorKind::invalid_argument, file_.name_,
          "two keys for one thing: got {} and {}, expected one. Take one of them out.", in_quotes(w ? w->name : ""),
          in_quotes(first    ? first->name
                    : second ? second->name
                             : ""));
    if (w) {
      if (w->shape.rank() < 2 || w->shape.count() < 1) refuse_shape(*w, "a matrix", *module.weight);
      return ChangeMatrix{tensor(*w)};
    }
    if (!first && !second) return {};
    const TensorEntry& up = half(tensors, a, second, fmt::format("{}_a", name));
    const TensorEntry& down = half(tensors, b, first, fmt::format("{}_b", name));
    if (up.shape.rank() < 2 || up.shape.count() < 1) refuse_shape(up, "a matrix", *module.weight);
    if (down.shape.rank() < 2 || down.shape.count() < 1 || down.shape.dim(0) != up.shape.count(1, up.shape.rank()))
      refuse_shape(down, fmt::format("[{},n]", up.shape.count(1, up.shape.rank())), *module.weight);
    rank = down.shape.dim(0);
    return ChangeMatrix{tensor(up), tensor(down)};
  }

  void add_kronecker_of(const Module& module, const Tensors& tensors, std::vector<Change>& sums) {
    std::optional<std::int64_t> rank;  // of the second factor, if that has one, else of the first
    auto w1 = kronecker_factor(module, tensors, Role::lokr_w1, Role::lokr_w1_a, Role::lokr_w1_b, "lokr_w1", rank);
    auto w2 = kronecker_factor(module, tensors, Role::lokr_w2, Role::lokr_w2_a, Role::lokr_w2_b, "lokr_w2", rank);
    if (!w1 && !w2) return;
    check(w1 && w2, ErrorKind::invalid_argument, file_.name_,
          "half a pair: got {} and no {}, expected both. The file is cut or broken.", in_quotes((w1 ? w1 : w2)->first.key),
          w1 ? "lokr_w2" : "lokr_w1");
    const ExpectedTensor& weight = *module.weight;
    check(w1->rows() * w2->rows() == rows_of(weight.shape) && w1->columns() * w2->columns() == columns_of(weight.shape),
          ErrorKind::invalid_argument, file_.name_,
          "bad shape of {}: got {}x{} times {}x{}, expected {}x{} for {} {} of {}. The LoRA is of another model, or of another "
          "size of it.",
          in_quotes(w1->first.key), w1->rows(), w1->columns(), w2->rows(), w2->columns(), rows_of(weight.shape),
          columns_of(weight.shape), weight.name, weight.shape.str(), component_);
    const double factor = rank ? scale(module, tensors, *rank) : 1;
    sums.emplace_back([a = *w1, b = *w2, factor](WeightPtr base, double strength) {
      return add_kronecker(std::move(base), a, b, strength * factor);
    });
  }

  // Whether the magnitudes are those of columns. PEFT's are of rows; LyCORIS has both, as [rows,1] and [1,columns].
  bool check_magnitude(const ExpectedTensor& weight, const TensorEntry& magnitude, bool is_of_peft) const {
    const std::int64_t rows = rows_of(weight.shape), columns = columns_of(weight.shape), count = magnitude.shape.count();
    if (count == rows && magnitude.shape.rank() > 0 && magnitude.shape.dim(0) == rows) return false;
    if (is_of_peft || count != columns)
      refuse_shape(magnitude, is_of_peft ? fmt::format("[{}]", rows) : fmt::format("[{},1] or [1,{}]", rows, columns), weight);
    return true;
  }

  void check_whole(const ExpectedTensor& of, const TensorEntry& got) const {
    const auto extents = [](const Shape& shape) {
      std::vector<std::int64_t> dims = shape.dims();
      std::erase(dims, 1);
      return dims;
    };
    if (extents(got.shape) != extents(of.shape)) refuse_shape(got, of.shape.str(), of);
  }

  void add_difference_to(const ExpectedTensor& of, const TensorEntry& difference, double factor) {
    check_whole(of, difference);
    change(of, [d = tensor(difference), factor](WeightPtr base, double strength) {
      return add_difference(std::move(base), d, strength * factor);
    });
  }

  const LoraFile& file_;
  std::string component_;
  Modules modules_;
  double strength_;
  std::shared_ptr<const void> identity_;
  LoraFit fit_;
};

LoraFit LoraFile::fit(std::string_view component, std::span<const ExpectedTensor> tensors, std::span<const TensorAlias> other_names,
                      double strength) const {
  return Fitting(*this, component, tensors, other_names, strength).go();
}

WeightPtr changed(WeightPtr base, const WeightChanges& changes, std::string_view name) {
  if (const auto found = changes.find(name); found != changes.end())
    for (const WeightChange& change : found->second) base = change.apply(std::move(base));
  return base;
}

}  // namespace zoe
