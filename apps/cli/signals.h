// What the command does about signals, closed descriptors, and an output that takes no more.
#pragma once

#include <atomic>

namespace zoe::cli {

// Descriptors 0 to 2 that are closed lead to /dev/null, so that no file opened later takes their place and gets what is printed.
void open_standard_descriptors();

// INT, TERM, HUP and PIPE end the process with 128 + their number, and leave no unfinished output. One that whoever started the
// process ignores (nohup) stays ignored. A mapped file that cannot be read any more (BUS) ends it with a line and 4.
void handle_signals();

// From now on the first of them only sets the flag that is returned; the next one ends the process.
const std::atomic<bool>& stop_at_next_step();

// The signal that set the flag; 0 if none did.
int stopping_signal();

// The exit code of a command that ended with `code`, once what it printed has left: 4 and a line if it could not.
int flush_output(int code);

}  // namespace zoe::cli
