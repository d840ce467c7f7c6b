// Files of torch.save (.pth, .pt, .bin): a zip archive of plain entries with a pickle that describes tensors in the others.
//
// A pickle is a program. This reader runs none: it knows numbers, strings, tuples, lists, dicts, OrderedDict and tensors, and
// refuses every other name by that name. Nothing is imported, called or written, whatever the file says. Nothing is copied.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace zoe {

bool is_zip(std::span<const std::byte> file);  // by its first four bytes

// The tensors of the dict that was saved, sorted by name; of dicts within dicts names are joined by dots, and what is no tensor is
// left out. The file's bytes must outlive the entries. `where` names the file in errors: invalid_argument for a broken file,
// unsupported for a name that is refused, a compressed entry, a tensor that is not contiguous, big-endian data. `fetch` is called
// before bytes are first touched. Bounds: 100,000 entries and tensors, a pickle of 64 MiB and 1,000,000 values, dicts 16 deep.
std::vector<TensorEntry> parse_pytorch(std::span<const std::byte> file, std::string_view where,
                                       const std::function<void(std::size_t begin, std::size_t count)>& fetch = {});

}  // namespace zoe
