// Repair of damaged text, as the Python package ftfy does it.
#pragma once

#include <string>
#include <string_view>

namespace zoe {

// What `ftfy.fix_text` of ftfy 6.3 makes of a text with its default settings: mojibake is read again, HTML references are replaced
// (where the text has no '<'), curly quotes straightened, ligatures and wide and narrow forms taken apart or made normal, line
// breaks made line feeds, terminal and control codes left out, and all put into normal form C. docs/prompts.md lists it.
// `text` is UTF-8 in which halves of UTF-16 pairs may be (they are joined or become U+FFFD); the result is UTF-8 without them.
// Text that needs very many passes is an invalid_argument error.
std::string repair_text(std::string_view text);

}  // namespace zoe
