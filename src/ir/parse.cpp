#include "ir/parse.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <unordered_map>

#include "base/encoding.h"
#include "base/error.h"
#include "ir/change.h"
#include "ir/trace.h"

namespace zoe {

namespace {

constexpr Opcode kLastOpcode = Opcode::fused;

struct Line {
  std::size_t number, indent;
  std::string_view text;  // behind the indent

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::invalid_argument, fmt::format("graph text, line {}", number), format, std::forward<Args>(args)...);
  }
};

std::vector<Line> split_lines(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    const std::size_t indent = line.find_first_not_of(' ');
    if (indent != std::string_view::npos) lines.push_back({number, indent, line.substr(indent)});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

// Takes words from the front of a line; quotes keep the spaces between them together.
class Words {
 public:
  explicit Words(const Line& line) : line_(line), rest_(line.text) {}

  std::string_view next() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
    bool quoted = false;
    std::size_t end = 0;
    for (; end < rest_.size() && (quoted || rest_[end] != ' '); ++end)
      if (rest_[end] == '"') quoted = !quoted;
    if (quoted) line_.refuse("got {}, expected a closing quote.", rest_);
    const std::string_view word = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return word;
  }
  // All that is left, behind one space.
  std::string_view rest() { return rest_.empty() ? rest_ : rest_.substr(1); }

 private:
  const Line& line_;
  std::string_view rest_;
};

template <class Number>
Number parse_number(const Line& line, std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) line.refuse("got '{}', expected a number.", text);
  return number;
}

template <class Number>
std::vector<Number> parse_numbers(const Line& line, std::string_view text) {
  std::vector<Number> numbers;
  for (;;) {
    const std::size_t end = text.find(',');
    numbers.push_back(parse_number<Number>(line, text.substr(0, end)));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return numbers;
}

std::array<int, 3> parse_triple(const Line& line, std::string_view text) {
  const std::vector<int> numbers = parse_numbers<int>(line, text);
  if (numbers.size() != 3) line.refuse("got '{}', expected three numbers.", text);
  return {numbers[0], numbers[1], numbers[2]};
}

// "1,576,256"
Shape parse_extents(const Line& line, std::string_view text) {
  std::vector<std::int64_t> dims = parse_numbers<std::int64_t>(line, text);
  std::int64_t room = std::int64_t{1} << 48;  // so that no product of extents overflows
  for (const std::int64_t extent : dims) {
    if (extent < 1 || extent > room) line.refuse("got '{}', expected extents of 1 or more, and fewer elements.", text);
    room /= extent;
  }
  return Shape(std::move(dims));
}

// "bf16[1,576,256]"
Type parse_type(const Line& line, std::string_view text) {
  const std::size_t open = text.find('[');
  if (open == std::string_view::npos || !text.ends_with(']')) line.refuse("got '{}', expected a type such as f32[2,3].", text);
  Type type;
  const auto row = std::ranges::find(kDTypes, text.substr(0, open), &DTypeRow::name);
  if (row == std::end(kDTypes)) {
    std::string known;
    for (const DTypeRow& each : kDTypes) known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    line.refuse("got '{}', expected one of {}.", text.substr(0, open), known);
  }
  type.dtype = row->dtype;
  const std::string_view extents = text.substr(open + 1, text.size() - open - 2);
  if (!extents.empty()) type.shape = parse_extents(line, extents);
  return type;
}

Opcode parse_opcode(const Line& line, std::string_view text) {
  for (int i = 0; i <= static_cast<int>(kLastOpcode); ++i)
    if (name(static_cast<Opcode>(i)) == text) return static_cast<Opcode>(i);
  line.refuse("got '{}', expected an opcode.", text);
}

// The words between operands and types, by what they begin with: "axis=", "[", "+bias". A constant's only word is its number.
class AttributeWords {
 public:
  explicit AttributeWords(const Line& line) : line_(line) {}

  void add(Opcode opcode, std::string_view word) {
    std::size_t split = word.starts_with('[') ? 1 : word.find('=') == std::string_view::npos ? word.size() : word.find('=') + 1;
    if (opcode == Opcode::constant && split == word.size()) split = 0;
    if (!words_.emplace(word.substr(0, split), word.substr(split)).second)
      line_.refuse("got a second '{}'.", word.substr(0, split));
  }
  std::optional<std::string_view> take(std::string_view key) {
    const auto found = words_.find(key);
    if (found == words_.end()) return {};
    const std::string_view value = found->second;
    words_.erase(found);
    return value;
  }
  std::string_view require(Opcode opcode, std::string_view key) {
    const auto value = take(key);
    if (!value) line_.refuse("{} lacks an attribute: expected {}.", name(opcode), key.empty() ? "a number" : key);
    return *value;
  }
  void check_all_taken(Opcode opcode) const {
    if (!words_.empty())
      line_.refuse("got '{}{}', expected an operand, an attribute of {} or a colon.", words_.begin()->first, words_.begin()->second,
                   name(opcode));
  }

 private:
  const Line& line_;
  std::map<std::string_view, std::string_view> words_;
};

std::string_view without_quotes(const Line& line, std::string_view text) {
  if (text.size() < 2 || !text.starts_with('"') || !text.ends_with('"')) line.refuse("got {}, expected a text in quotes.", text);
  return text.substr(1, text.size() - 2);
}

Codes parse_codes(const Line& line, AttributeWords& words) {
  const auto text = words.take("codes=");
  if (!text) return Codes::none;
  if (*text != name(Codes::i8)) line.refuse("got codes={}, expected {}.", *text, name(Codes::i8));
  return Codes::i8;
}

Attributes parse_attributes(const Line& line, Opcode opcode, AttributeWords& words) {
  const auto axis = [&] {
    const int number = parse_number<int>(line, words.require(opcode, "axis="));
    if (number < 0) line.refuse("got axis {}, expected 0 or more.", number);
    return number;
  };
  switch (opcode) {
    case Opcode::constant: return ConstantAttributes{parse_number<double>(line, words.require(opcode, ""))};
    case Opcode::concat:
    case Opcode::flip: return AxisAttributes{axis()};
    case Opcode::slice: {
      std::string_view range = words.require(opcode, "[");
      if (!range.ends_with(')')) line.refuse("got '[{}', expected a range such as [0,2).", range);
      range.remove_suffix(1);
      const std::vector<std::int64_t> bounds = parse_numbers<std::int64_t>(line, range);
      if (bounds.size() != 2) line.refuse("got '[{})', expected a range such as [0,2).", range);
      return AxisAttributes{axis(), bounds[0], bounds[1]};
    }
    case Opcode::permute: {
      std::vector<int> axes = parse_numbers<int>(line, words.require(opcode, "axes="));
      if (*std::min_element(axes.begin(), axes.end()) < 0) line.refuse("got a negative axis, expected 0 or more.");
      return PermuteAttributes{std::move(axes)};
    }
    case Opcode::linear:
    case Opcode::conv: {
      ProductAttributes attributes;
      attributes.has_bias = words.take("+bias").has_value();
      attributes.has_residual = words.take("+residual").has_value();
      if (words.take("+gelu_tanh")) attributes.activation = Activation::gelu_tanh;
      if (words.take("+silu")) attributes.activation = Activation::silu;
      attributes.codes = parse_codes(line, words);
      if (opcode == Opcode::linear) return attributes;
      attributes.has_history = words.take("+history").has_value();
      if (const auto upsample = words.take("upsample=")) attributes.upsample = parse_number<int>(line, *upsample);
      attributes.stride = parse_triple(line, words.require(opcode, "stride="));
      const std::string_view pad = words.require(opcode, "pad=");
      const std::size_t slash = pad.find('/');
      if (slash == std::string_view::npos) line.refuse("got '{}', expected pads such as 0,1,1/0,1,1.", pad);
      attributes.pad_begin = parse_triple(line, pad.substr(0, slash));
      attributes.pad_end = parse_triple(line, pad.substr(slash + 1));
      return attributes;
    }
    case Opcode::attention: {
      const auto scale = parse_number<double>(line, words.require(opcode, "scale="));
      AttentionAttributes attributes{scale, words.take("+bias").has_value()};
      attributes.codes = parse_codes(line, words);
      if (const auto heads = words.take("heads=")) {
        attributes.heads = parse_number<std::int64_t>(line, *heads);
        const std::vector<std::int64_t> first = parse_numbers<std::int64_t>(line, words.require(opcode, "from="));
        if (first.size() != 3) line.refuse("got {} first heads, expected three.", first.size());
        std::copy(first.begin(), first.end(), attributes.first_head.begin());
      }
      return attributes;
    }
    case Opcode::parameter: {
      const auto stored = words.take("stored=");
      return stored ? Attributes(StoredAttributes{parse_extents(line, *stored)}) : Attributes();
    }
    default: return {};
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : lines_(split_lines(text)), end_{count_lines(text) + 1, 0, {}} {}

  Graph all() {
    Graph graph = parse_graph(0);
    if (at_ < lines_.size()) line().refuse("got '{}', expected the end behind the results.", line().text);
    return graph;
  }

 private:
  static std::size_t count_lines(std::string_view text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  const Line& line() const { return at_ < lines_.size() ? lines_[at_] : end_; }

  using Labels = std::unordered_map<std::string_view, NodePtr>;

  Graph parse_graph(std::size_t indent) {
    constexpr std::string_view kHead = "graph";
    const Line& head = line();
    if (head.indent != indent || !head.text.starts_with(kHead)) head.refuse("got '{}', expected 'graph NAME'.", head.text);
    ++at_;
    Labels labels;
    std::vector<Value> inputs, outputs;
    while (!line().text.starts_with("return")) {
      const Value node = parse_node(indent, labels);
      if (node.node().opcode == Opcode::input) inputs.push_back(node);
    }
    Words words(line());
    words.next();
    for (std::string_view word = words.next(); !word.empty(); word = words.next())
      outputs.push_back(parse_reference(line(), word, labels));
    ++at_;
    const std::string_view name = head.text.substr(std::min(kHead.size() + 1, head.text.size()));
    return make_graph(std::string(name), std::move(inputs), std::move(outputs));
  }

  static Value parse_reference(const Line& line, std::string_view word, const Labels& labels) {
    if (!word.starts_with('%')) line.refuse("got '{}', expected a value such as %3.", word);
    const std::size_t dot = word.rfind('.');
    const auto found = labels.find(word.substr(0, dot));
    if (found == labels.end()) line.refuse("got '{}', expected the label of a line before.", word);
    const int count = static_cast<int>(found->second->types.size());
    const int output = dot == std::string_view::npos ? 0 : parse_number<int>(line, word.substr(dot + 1));
    if (output < 0 || output >= count || (dot == std::string_view::npos && count > 1))
      line.refuse("got '{}', expected one of its results, .0 to .{}.", word, count - 1);
    return Value(found->second, output);
  }

  // "%2 = mul %0 %1 : f32[2,3]  # name", and the native graph behind a call.
  Value parse_node(std::size_t indent, Labels& labels) {
    const Line& here = line();
    Words words(here);
    const std::string_view label = words.next();
    if (here.indent != indent || !label.starts_with('%') || label.find('.') != std::string_view::npos || words.next() != "=")
      here.refuse("got '{}', expected '%LABEL = OPCODE ...' or 'return ...', {} spaces in.", here.text, indent);
    ++at_;
    Node node{parse_opcode(here, words.next()), {}, {}, {}, {}};
    AttributeWords attributes(here);
    std::string_view word = words.next();
    for (; !word.empty() && word != ":"; word = words.next()) {
      if (word.starts_with('%')) node.inputs.push_back(parse_reference(here, word, labels));
      else attributes.add(node.opcode, word);
    }
    if (word.empty()) here.refuse("the line ends early: expected a colon and the result's type.");
    for (word = words.next(); !word.empty() && word != "#"; word = words.next()) node.types.push_back(parse_type(here, word));
    node.name = words.rest();
    if (const auto block = attributes.take("block=")) node.block = parse_number<int>(here, *block);
    if (node.opcode == Opcode::call || node.opcode == Opcode::fused) {
      std::string op(without_quotes(here, attributes.require(node.opcode, "op=")));
      node.attributes = std::make_shared<const CallAttributes>(CallAttributes{std::move(op), parse_graph(indent + 2)});
    } else {
      node.attributes = parse_attributes(here, node.opcode, attributes);
      if (node.types.size() != 1) here.refuse("got {} types, expected 1.", node.types.size());
      if (node.opcode == Opcode::constant && node.types[0].shape.rank() != 0)
        here.refuse("got {}, expected a constant of rank 0.", node.types[0].str());
      if (node.opcode == Opcode::parameter) {
        const auto rows = attributes.take("parts="), kept = attributes.take("kept=");
        if (rows) node.attributes = parse_parts(here, *rows, kept, node);
        else if (kept) node.attributes = StoredAttributes{stored_shape(node), parse_storage(here, *kept)};
      }
    }
    if (node.opcode == Opcode::linear && attributes.take("+change").has_value() != has_change(node))
      here.refuse("got {} operands, expected +change to stand for one behind those of the other words.", node.inputs.size());
    attributes.check_all_taken(node.opcode);
    check_types(here, node);
    std::vector<Value> inputs = node.inputs;
    const Value made = with_inputs(node, std::move(inputs), node.name);
    if (!labels.emplace(label, made.node_ptr()).second) here.refuse("got a second {}, expected a new label.", label);
    return made;
  }

  // "Q4_K", "F8_E4M3*scale"
  static Storage parse_storage(const Line& line, std::string_view text) {
    constexpr std::string_view kScaled = "*scale";
    const bool is_scaled = text.ends_with(kScaled);
    const Encoding* const encoding = find_encoding(text.substr(0, text.size() - (is_scaled ? kScaled.size() : 0)));
    if (!encoding || !encoding->is_weight()) line.refuse("got kept={}, expected an encoding of weights.", text);
    return {encoding, is_scaled};
  }

  // The rows of a packed parameter's parts, and how each is kept; their names are joined by " + " in its own.
  static PackedAttributes parse_parts(const Line& line, std::string_view text, std::optional<std::string_view> kept,
                                      const Node& node) {
    constexpr std::string_view kBetween = " + ";
    PackedAttributes packed;
    std::string_view names = node.name;
    const std::vector<std::int64_t> rows = parse_numbers<std::int64_t>(line, text);
    if (rows.size() < 2 || node.types[0].shape.rank() == 0)
      line.refuse("got parts={}, expected the rows of two parts or more.", text);
    for (const std::int64_t count : rows) {
      if (count < 1) line.refuse("got parts={}, expected rows of 1 or more.", text);
      const std::size_t end = names.find(kBetween);
      if ((end == std::string_view::npos) != (packed.parts.size() + 1 == rows.size()))
        line.refuse("got {} parts named '{}', expected their names with plus signs between.", rows.size(), node.name);
      Type type = node.types[0];
      type.shape.dim(0) = count;
      Value part = parameter(std::string(names.substr(0, end)), type.dtype, type.shape, node.block);
      if (kept) {
        const std::size_t comma = kept->find(',');
        if ((comma == std::string_view::npos) != (packed.parts.size() + 1 == rows.size()))
          line.refuse("got {} parts, expected as many encodings with commas between.", rows.size());
        const Storage storage = parse_storage(line, kept->substr(0, comma));
        if (storage.encoding->dtype != type.dtype) part = kept_parameter(part.node(), storage);
        kept->remove_prefix(comma == std::string_view::npos ? kept->size() : comma + 1);
      }
      packed.parts.push_back(std::move(part));
      names.remove_prefix(std::min(names.size(), end == std::string_view::npos ? names.size() : end + kBetween.size()));
    }
    return packed;
  }

  static void check_types(const Line& line, const Node& node) {
    std::vector<Type> expected;
    try {
      expected = result_types(node);
    } catch (const Error& error) {
      line.refuse("{}", error.what());
    }
    if (expected == node.types) return;
    std::string types;
    for (const Type& type : expected) types += " " + type.str();
    line.refuse("the result's type contradicts the operands: expected{}.", types);
  }

  const std::vector<Line> lines_;
  const Line end_;
  std::size_t at_ = 0;
};

}  // namespace

Graph parse(std::string_view text) { return Parser(text).all(); }

}  // namespace zoe
