#include "checkpoint/pytorch.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

namespace {

using Fetch = std::function<void(std::size_t begin, std::size_t count)>;
using Bytes = std::span<const std::byte>;

template <class Number>
Number number_at(Bytes bytes, std::size_t at) {
  static_assert(std::endian::native == std::endian::little);
  Number value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The entries of an archive, by name; only such that are stored as they are.
class Zip {
 public:
  Zip(Bytes file, std::string_view where, const Fetch& fetch) : file_(file), where_(where), fetch_(fetch) { read_directory(); }

  // Where an entry's bytes are, or nothing.
  std::optional<Bytes> find(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return {};
    const Entry& entry = found->second;
    const std::string shown = in_quotes(name);
    check(entry.method == 0 && entry.size == entry.packed, ErrorKind::unsupported, where_,
          "{} is compressed in the archive, expected entries stored as they are, as torch.save writes them. Save the file again.",
          shown);
    constexpr std::size_t kHead = 30;
    const Bytes head = slice(entry.offset, kHead, "an entry's head");
    check(number_at<std::uint32_t>(head, 0) == 0x04034b50, ErrorKind::invalid_argument, where_,
          "broken archive: got no entry at byte {}, expected {}. Download or copy the file again.", entry.offset, shown);
    const std::uint64_t behind = kHead + number_at<std::uint16_t>(head, 26) + number_at<std::uint16_t>(head, 28);
    return slice(entry.offset + behind, entry.size, shown);
  }

  // What all names begin with: the archive's own name and a slash.
  std::string prefix() const {
    for (const auto& [name, entry] : entries_)
      if (name.ends_with("/data.pkl")) return name.substr(0, name.size() - std::string_view("data.pkl").size());
    fail(ErrorKind::invalid_argument, where_,
         "no data.pkl: got a zip archive without it, expected a file of torch.save. Check the file.");
  }

  void fetch(Bytes bytes) const {
    if (fetch_) fetch_(static_cast<std::size_t>(bytes.data() - file_.data()), bytes.size());
  }

 private:
  struct Entry {
    std::uint64_t offset, size, packed;
    std::uint16_t method;
  };

  // Bytes of the file, without those that are not there.
  Bytes bounded(std::uint64_t begin, std::uint64_t count, std::string_view what) const {
    check(begin <= file_.size() && count <= file_.size() - begin, ErrorKind::invalid_argument, where_,
          "the archive is cut: got {} bytes, expected {} of {} at byte {}. Download or copy the file again.", file_.size(), count,
          what, begin);
    return file_.subspan(begin, count);
  }
  // Of an entry: its head is read at once, what is behind it is fetched by who reads it.
  Bytes slice(std::uint64_t begin, std::uint64_t count, std::string_view what) const {
    const Bytes bytes = bounded(begin, count, what);
    if (count <= 64) fetch(bytes);
    return bytes;
  }

  void read_directory() {
    // The end record stands at the end, behind it at most a comment.
    constexpr std::size_t kEnd = 22, kLongestComment = 65535;
    check(file_.size() >= kEnd, ErrorKind::invalid_argument, where_,
          "no zip archive: got {} bytes, expected at least {}. Check the file.", file_.size(), kEnd);
    const std::size_t first = file_.size() - std::min(file_.size(), kEnd + kLongestComment);
    fetch(file_.subspan(first));
    std::size_t end = file_.size() - kEnd;
    while (end > first && number_at<std::uint32_t>(file_, end) != 0x06054b50) --end;
    check(number_at<std::uint32_t>(file_, end) == 0x06054b50, ErrorKind::invalid_argument, where_,
          "the archive is cut: got no directory at its end, expected one. Download or copy the file again.");
    std::uint64_t count = number_at<std::uint16_t>(file_, end + 10), size = number_at<std::uint32_t>(file_, end + 12),
                  offset = number_at<std::uint32_t>(file_, end + 16);
    constexpr std::size_t kLocator = 20, kEnd64 = 56;
    if (end >= kLocator && number_at<std::uint32_t>(file_, end - kLocator) == 0x07064b50) {
      const Bytes record = bounded(number_at<std::uint64_t>(file_, end - kLocator + 8), kEnd64, "its directory");
      fetch(record);
      check(number_at<std::uint32_t>(record, 0) == 0x06064b50, ErrorKind::invalid_argument, where_,
            "broken archive: got no 64-bit directory where its end says, expected one. Download or copy the file again.");
      count = number_at<std::uint64_t>(record, 32);
      size = number_at<std::uint64_t>(record, 40);
      offset = number_at<std::uint64_t>(record, 48);
    }
    constexpr std::uint64_t kMostEntries = 100'010;
    check(count <= kMostEntries, ErrorKind::invalid_argument, where_,
          "too many entries: got {}, expected at most {}. Check the file.", count, kMostEntries);
    const Bytes directory = bounded(offset, size, "its directory");
    fetch(directory);
    std::size_t at = 0;
    for (std::uint64_t i = 0; i < count; ++i) at = read_entry(directory, at);
  }

  std::size_t read_entry(Bytes directory, std::size_t at) {
    constexpr std::size_t kHead = 46;
    const auto check_room = [&](std::size_t bytes) {
      check(directory.size() - at >= bytes, ErrorKind::invalid_argument, where_,
            "broken archive: got a directory that ends within an entry, expected all of them. Download or copy the file again.");
    };
    check_room(kHead);
    const Bytes head = directory.subspan(at);
    check(number_at<std::uint32_t>(head, 0) == 0x02014b50, ErrorKind::invalid_argument, where_,
          "broken archive: got no entry in its directory at byte {}, expected one. Download or copy the file again.", at);
    const std::size_t name_size = number_at<std::uint16_t>(head, 28), extra_size = number_at<std::uint16_t>(head, 30),
                      comment_size = number_at<std::uint16_t>(head, 32);
    check_room(kHead + name_size + extra_size + comment_size);
    Entry entry{number_at<std::uint32_t>(head, 42), number_at<std::uint32_t>(head, 24), number_at<std::uint32_t>(head, 20),
                number_at<std::uint16_t>(head, 10)};
    // 64-bit values of those fields that are full, in this order.
    const Bytes extra = head.subspan(kHead + name_size, extra_size);
    for (std::size_t e = 0; e + 4 <= extra.size();) {
      const std::size_t size = number_at<std::uint16_t>(extra, e + 2), begin = e + 4;
      if (size > extra.size() - begin) break;
      if (number_at<std::uint16_t>(extra, e) == 1) {
        std::size_t next = begin;
        for (std::uint64_t* field : {&entry.size, &entry.packed, &entry.offset})
          if (*field == 0xffffffffu && next + 8 <= begin + size)
            *field = number_at<std::uint64_t>(extra, std::exchange(next, next + 8));
      }
      e = begin + size;
    }
    entries_[{reinterpret_cast<const char*>(head.data()) + kHead, name_size}] = entry;
    return at + kHead + name_size + extra_size + comment_size;
  }

  Bytes file_;
  std::string_view where_;
  const Fetch& fetch_;
  std::map<std::string, Entry> entries_;
};

// What a pickle may name.
enum class Known { ordered_dict, rebuild_tensor, rebuild_parameter, storage };

struct KnownName {
  std::string_view name;
  Known known;
  std::string_view dtype = {};  // of a storage, as safetensors calls it
};

constexpr std::array kKnownNames{
    KnownName{"collections.OrderedDict", Known::ordered_dict},
    KnownName{"torch._utils._rebuild_tensor_v2", Known::rebuild_tensor},
    KnownName{"torch._utils._rebuild_parameter", Known::rebuild_parameter},
    KnownName{"torch.FloatStorage", Known::storage, "F32"},
    KnownName{"torch.HalfStorage", Known::storage, "F16"},
    KnownName{"torch.BFloat16Storage", Known::storage, "BF16"},
    KnownName{"torch.DoubleStorage", Known::storage, "F64"},
    KnownName{"torch.Float8_e4m3fnStorage", Known::storage, "F8_E4M3"},
    KnownName{"torch.Float8_e5m2Storage", Known::storage, "F8_E5M2"},
    KnownName{"torch.LongStorage", Known::storage, "I64"},
    KnownName{"torch.IntStorage", Known::storage, "I32"},
    KnownName{"torch.ShortStorage", Known::storage, "I16"},
    KnownName{"torch.CharStorage", Known::storage, "I8"},
    KnownName{"torch.ByteStorage", Known::storage, "U8"},
    KnownName{"torch.BoolStorage", Known::storage, "BOOL"},
};

// A value of the pickle. Containers refer to their elements by number, so that values in themselves are no trouble.
struct Value {
  enum class Kind { none, integer, other, text, tuple, list, dict, known, storage, tensor } kind = Kind::other;
  std::int64_t integer = 0;               // truth values too
  std::string text = {};                  // a storage's key
  std::vector<std::uint32_t> items = {};  // of a dict: key, value, key, value, ...
  const KnownName* known = nullptr;       // of a storage its type
  std::int64_t count = 0;                 // a storage's elements; a tensor's first one
  std::uint32_t storage = 0;              // a tensor's
  Shape shape = {};
};

class Unpickler {
 public:
  Unpickler(Bytes pickle, std::string_view where) : pickle_(pickle), where_(where) {}

  // The number of the value that was saved.
  std::uint32_t run() {
    while (true) {
      const auto opcode = std::to_integer<unsigned char>(take(1)[0]);
      if (opcode == '.') return pop();
      step(opcode);
    }
  }
  const Value& operator[](std::uint32_t number) const { return values_[number]; }

 private:
  static constexpr std::size_t kMostValues = 1'000'000;
  static constexpr std::uint32_t kMark = ~std::uint32_t{0};

  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorKind::invalid_argument, where_, "broken pickle: got {} at byte {}, expected what torch.save writes. Check the file.",
         what, at_);
  }

  Bytes take(std::uint64_t count) {
    if (count > pickle_.size() - at_) refuse("its end");
    const Bytes bytes = pickle_.subspan(at_, count);
    at_ += count;
    return bytes;
  }
  template <class Number>
  Number number() {
    return number_at<Number>(take(sizeof(Number)), 0);
  }
  std::string text(std::uint64_t size) {
    const Bytes bytes = take(size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string line() {
    std::string out;
    for (char c; (c = static_cast<char>(take(1)[0])) != '\n';) out += c;
    return out;
  }

  std::uint32_t make(Value value) {
    if (values_.size() >= kMostValues) refuse("too many values");
    values_.push_back(std::move(value));
    return static_cast<std::uint32_t>(values_.size() - 1);
  }
  void push(Value value) { stack_.push_back(make(std::move(value))); }
  std::uint32_t pop() {
    if (stack_.empty() || stack_.back() == kMark) refuse("an empty stack");
    const std::uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  std::uint32_t top() const {
    if (stack_.empty() || stack_.back() == kMark) refuse("an empty stack");
    return stack_.back();
  }
  // All above the last mark, which goes too.
  std::vector<std::uint32_t> pop_to_mark() {
    const auto mark = std::find(stack_.rbegin(), stack_.rend(), kMark);
    if (mark == stack_.rend()) refuse("no mark");
    std::vector<std::uint32_t> items(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return items;
  }

  void push_integer(std::int64_t value) { push({.kind = Value::Kind::integer, .integer = value}); }
  void push_text(std::uint64_t size) { push({.kind = Value::Kind::text, .text = text(size)}); }
  void push_tuple(std::size_t count) {
    Value tuple{.kind = Value::Kind::tuple};
    tuple.items.resize(count);
    for (std::size_t i = count; i-- > 0;) tuple.items[i] = pop();
    push(std::move(tuple));
  }
  void memoize(std::uint32_t slot) { memo_[slot] = top(); }
  void push_memo(std::uint32_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) refuse("a memo that was never set");
    if (stack_.size() >= kMostValues) refuse("too many values");
    stack_.push_back(found->second);
  }

  void push_global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    const auto* const found =
        std::find_if(kKnownNames.begin(), kKnownNames.end(), [&](const KnownName& k) { return k.name == full; });
    check(found != kKnownNames.end(), ErrorKind::unsupported, where_,
          "the pickle asks for {}: got a name that no checkpoint needs, expected tensors, dicts and OrderedDict only. It was not "
          "run. Take a "
          "safetensors file.",
          in_quotes(full));
    push({.kind = Value::Kind::known, .known = found});
  }

  void add_items(std::uint32_t container, Value::Kind kind, std::vector<std::uint32_t> items) {
    if (values_[container].kind != kind || (kind == Value::Kind::dict && items.size() % 2 != 0)) refuse("elements of no container");
    std::vector<std::uint32_t>& to = values_[container].items;
    if (to.size() + items.size() > kMostValues) refuse("too many values");
    to.insert(to.end(), items.begin(), items.end());
  }

  std::int64_t integer_of(std::uint32_t number) const {
    if (values_[number].kind != Value::Kind::integer) refuse("no integer");
    return values_[number].integer;
  }
  const std::vector<std::uint32_t>& tuple_of(std::uint32_t number, std::size_t least) const {
    if (values_[number].kind != Value::Kind::tuple || values_[number].items.size() < least) refuse("no tuple of that length");
    return values_[number].items;
  }

  // ('storage', type, key, place, elements)
  void push_storage(std::uint32_t id) {
    const std::vector<std::uint32_t> fields = tuple_of(id, 5);
    const Value &type = values_[fields[1]], &key = values_[fields[2]];
    if (type.kind != Value::Kind::known || type.known->known != Known::storage || key.kind != Value::Kind::text)
      refuse("no storage");
    const std::int64_t count = integer_of(fields[4]);
    if (count < 0) refuse("a storage of negative size");
    push({.kind = Value::Kind::storage, .text = key.text, .known = type.known, .count = count});
  }

  void call(std::uint32_t function, std::uint32_t arguments) {
    const Value& callee = values_[function];
    if (callee.kind != Value::Kind::known) refuse("a call of no function");
    switch (callee.known->known) {
      case Known::ordered_dict:
        if (!tuple_of(arguments, 0).empty()) refuse("an OrderedDict with arguments");
        return push({.kind = Value::Kind::dict});
      case Known::rebuild_parameter: {  // (tensor, ...)
        const std::uint32_t tensor = tuple_of(arguments, 1)[0];
        if (values_[tensor].kind != Value::Kind::tensor) refuse("a parameter of no tensor");
        stack_.push_back(tensor);
        return;
      }
      case Known::rebuild_tensor: return push_tensor(tuple_of(arguments, 4));
      case Known::storage: break;
    }
    refuse("a call of no function");
  }

  // (storage, first element, extents, strides, ...)
  void push_tensor(const std::vector<std::uint32_t>& fields) {
    Value tensor{.kind = Value::Kind::tensor};
    tensor.storage = fields[0];
    if (values_[tensor.storage].kind != Value::Kind::storage) refuse("a tensor of no storage");
    tensor.count = integer_of(fields[1]);
    const std::vector<std::uint32_t>&extents = tuple_of(fields[2], 0), &strides = tuple_of(fields[3], 0);
    constexpr std::size_t kMaxRank = 8;
    if (extents.size() != strides.size() || extents.size() > kMaxRank) refuse("bad extents");
    std::vector<std::int64_t> dims(extents.size());
    constexpr std::int64_t kMost = std::int64_t{1} << 48;
    for (std::size_t i = 0; i < dims.size(); ++i)
      if ((dims[i] = integer_of(extents[i])) < 0) refuse("bad extents");
    if (!extents_fit(dims, kMost)) refuse("bad extents");
    const std::int64_t count = Shape(dims).count();
    std::int64_t contiguous = 1;
    bool is_contiguous = true;
    for (std::size_t i = dims.size(); i-- > 0 && count > 0;) {
      if (dims[i] != 1 && integer_of(strides[i]) != contiguous) is_contiguous = false;
      contiguous *= dims[i];
    }
    check(is_contiguous, ErrorKind::unsupported, where_,
          "a tensor of {} is not contiguous, expected rows one behind the other. Save it again with .contiguous().",
          Shape(dims).str());
    const std::int64_t room = values_[tensor.storage].count;
    if (tensor.count < 0 || tensor.count > room || count > room - tensor.count) refuse("a tensor beyond its storage");
    tensor.shape = Shape(std::move(dims));
    push(std::move(tensor));
  }

  void step(unsigned char opcode) {
    switch (opcode) {
      case 0x80: {  // PROTO
        const auto version = number<std::uint8_t>();
        if (version > 5) refuse("an unknown protocol");
        return;
      }
      case 0x95: number<std::uint64_t>(); return;  // FRAME
      case '(': stack_.push_back(kMark); return;
      case '0':  // POP
        if (!stack_.empty()) stack_.pop_back();
        return;
      case 'N': return push({.kind = Value::Kind::none});
      case 0x88: return push_integer(1);  // NEWTRUE
      case 0x89: return push_integer(0);  // NEWFALSE
      case 'J': return push_integer(number<std::int32_t>());
      case 'K': return push_integer(number<std::uint8_t>());
      case 'M': return push_integer(number<std::uint16_t>());
      case 0x8a: {  // LONG1
        const Bytes bytes = take(number<std::uint8_t>());
        if (bytes.size() > 8) refuse("an integer of more than 8 bytes");
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
        const unsigned unused = 64 - 8 * static_cast<unsigned>(bytes.size());
        return push_integer(bytes.empty() ? 0 : static_cast<std::int64_t>(value << unused) >> unused);
      }
      case 'G':  // BINFLOAT
        take(8);
        return push({});
      case 'X': return push_text(number<std::uint32_t>());
      case 0x8c: return push_text(number<std::uint8_t>());
      case 0x8d: return push_text(number<std::uint64_t>());
      case ')': return push_tuple(0);
      case 0x85: return push_tuple(1);
      case 0x86: return push_tuple(2);
      case 0x87: return push_tuple(3);
      case 't': return push({.kind = Value::Kind::tuple, .items = pop_to_mark()});
      case ']': return push({.kind = Value::Kind::list});
      case '}': return push({.kind = Value::Kind::dict});
      case 'a': {
        const std::uint32_t item = pop();
        return add_items(top(), Value::Kind::list, {item});
      }
      case 'e': {
        std::vector<std::uint32_t> items = pop_to_mark();
        return add_items(top(), Value::Kind::list, std::move(items));
      }
      case 's': {
        const std::uint32_t value = pop(), key = pop();
        return add_items(top(), Value::Kind::dict, {key, value});
      }
      case 'u': {
        std::vector<std::uint32_t> items = pop_to_mark();
        return add_items(top(), Value::Kind::dict, std::move(items));
      }
      case 'q': return memoize(number<std::uint8_t>());
      case 'r': return memoize(number<std::uint32_t>());
      case 0x94: return memoize(static_cast<std::uint32_t>(memo_.size()));  // MEMOIZE
      case 'h': return push_memo(number<std::uint8_t>());
      case 'j': return push_memo(number<std::uint32_t>());
      case 'c': {
        const std::string module = line(), name = line();
        return push_global(module, name);
      }
      case 0x93: {  // STACK_GLOBAL
        const std::uint32_t name = pop(), module = pop();
        if (values_[name].kind != Value::Kind::text || values_[module].kind != Value::Kind::text) refuse("a name that is no text");
        return push_global(std::string(values_[module].text), std::string(values_[name].text));
      }
      case 'Q': return push_storage(pop());
      case 'R': {
        const std::uint32_t arguments = pop(), function = pop();
        return call(function, arguments);
      }
      case 'b':  // BUILD: attributes of an OrderedDict (a state dict's versions of modules), which nobody needs
        pop();
        if (values_[top()].kind != Value::Kind::dict) refuse("attributes of no dict");
        return;
      default: refuse(fmt::format("opcode 0x{:02x}", opcode));
    }
  }

  Bytes pickle_;
  std::string_view where_;
  std::size_t at_ = 0;
  std::vector<Value> values_;
  std::vector<std::uint32_t> stack_;
  std::unordered_map<std::uint32_t, std::uint32_t> memo_;
};

class Collector {
 public:
  Collector(const Zip& zip, const std::string& prefix, const Unpickler& values, std::string_view where)
      : zip_(zip), prefix_(prefix), values_(values), where_(where) {}

  void add(std::uint32_t dict, const std::string& before, int depth) {
    constexpr int kDeepest = 16;
    constexpr std::size_t kMostVisits = 200'000;
    check(depth <= kDeepest, ErrorKind::invalid_argument, where_,
          "dicts are nested too deep: got {}, expected at most {}. Check the file.", depth, kDeepest);
    const std::vector<std::uint32_t>& items = values_[dict].items;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      check(++visits_ <= kMostVisits, ErrorKind::invalid_argument, where_,
            "too many tensors: got more than {}, expected fewer. Check the file.", kMostVisits);
      const Value &key = values_[items[i]], &value = values_[items[i + 1]];
      if (key.kind != Value::Kind::text) continue;
      if (value.kind == Value::Kind::dict) add(items[i + 1], before + key.text + ".", depth + 1);
      else if (value.kind == Value::Kind::tensor) add_tensor(before + key.text, value);
    }
  }

  std::vector<TensorEntry> finish() {
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < tensors_.size(); ++i)
      check(tensors_[i - 1].name != tensors_[i].name, ErrorKind::invalid_argument, where_,
            "two tensors of one name: got a second {}, expected each once. Check the file.", in_quotes(tensors_[i].name));
    check(!tensors_.empty(), ErrorKind::invalid_argument, where_,
          "no tensors: got a file without any, expected a dict of them. Check the file.");
    return std::move(tensors_);
  }

 private:
  void add_tensor(std::string name, const Value& tensor) {
    const Value& storage = values_[tensor.storage];
    const auto bytes = zip_.find(prefix_ + "data/" + storage.text);
    const Encoding* const encoding = safetensors_encoding(storage.known->dtype);
    check(bytes && static_cast<std::int64_t>(bytes->size()) / encoding->block_bytes >= storage.count, ErrorKind::invalid_argument,
          where_, "bad storage of {}: got {} bytes, expected {} elements of {}. Download or copy the file again.", in_quotes(name),
          bytes ? bytes->size() : 0, storage.count, encoding->name);
    const auto begin = static_cast<std::size_t>(encoding->size_bytes(tensor.count)),
               size = static_cast<std::size_t>(encoding->size_bytes(tensor.shape.count()));
    tensors_.push_back({std::move(name), encoding, tensor.shape, bytes->subspan(begin, size), {}});
  }

  const Zip& zip_;
  const std::string& prefix_;
  const Unpickler& values_;
  std::string_view where_;
  std::size_t visits_ = 0;
  std::vector<TensorEntry> tensors_;
};

}  // namespace

bool is_zip(Bytes file) { return file.size() >= 4 && number_at<std::uint32_t>(file, 0) == 0x04034b50; }

std::vector<TensorEntry> parse_pytorch(Bytes file, std::string_view where, const Fetch& fetch) {
  const Zip zip(file, where, fetch);
  const std::string prefix = zip.prefix();
  if (const auto order = zip.find(prefix + "byteorder")) {
    zip.fetch(*order);
    const std::string_view text(reinterpret_cast<const char*>(order->data()), order->size());
    check(text == "little", ErrorKind::unsupported, where, "byte order {} is not supported: expected \"little\".",
          in_quotes(text.substr(0, 16)));
  }
  const Bytes pickle = *zip.find(prefix + "data.pkl");
  constexpr std::size_t kLargestPickle = std::size_t{64} << 20;
  check(pickle.size() <= kLargestPickle, ErrorKind::invalid_argument, where,
        "the pickle is too large: got {} bytes, expected at most {}.", pickle.size(), kLargestPickle);
  zip.fetch(pickle);
  Unpickler values(pickle, where);
  const std::uint32_t saved = values.run();
  check(values[saved].kind == Value::Kind::dict, ErrorKind::invalid_argument, where,
        "no dict of tensors: got something else in data.pkl, expected what torch.save(model.state_dict(), ...) writes. Check the "
        "file.");
  Collector tensors(zip, prefix, values, where);
  tensors.add(saved, "", 0);
  return tensors.finish();
}

}  // namespace zoe
