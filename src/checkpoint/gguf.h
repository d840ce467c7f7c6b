// GGUF files, versions 2 and 3: counts, metadata, tensor descriptions, padding, then the tensors' blocks. Everything is validated
// before an entry is handed out: counts, lengths, types, offsets, overlaps, overflow. Nothing is copied.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace zoe {

struct Gguf {
  // Sorted by name; extents outermost first, and as they were before conversion where "comfy.gguf.orig_shape.NAME" says so.
  std::vector<TensorEntry> tensors;
  std::map<std::string, std::string> metadata;  // strings, numbers and truth values as text; arrays are left out
};

bool is_gguf(std::span<const std::byte> file);  // by its first four bytes

// Reads the descriptions of a whole file's bytes, which must outlive the entries. `where` names the file in errors, which are all
// invalid_argument, but for a block type that is not known here (unsupported). `fetch` is called before bytes are first touched.
// Bounds: 100,000 tensors, 8 dimensions, as many metadata entries as fit in the file.
Gguf parse_gguf(std::span<const std::byte> file, std::string_view where,
                const std::function<void(std::size_t begin, std::size_t count)>& fetch = {});

// The tokenizer of T5 models that such a file may have in its metadata (tokenizer.ggml.tokens and so on), as the bytes of a
// spiece.model; "" if there is none. Errors as parse_gguf's; unsupported for a tokenizer of another model than T5's.
std::string sentencepiece_of_gguf(std::span<const std::byte> file, std::string_view where,
                                  const std::function<void(std::size_t begin, std::size_t count)>& fetch = {});

}  // namespace zoe
