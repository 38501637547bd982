// Ctrl-C inside native work: a poll, set by the bindings, that tells whether to stop.
#pragma once

namespace quernel {

// True about every 20 ms of native work on this thread, if there is a poll.
bool poll_due();

// A call after a pause starts the interval anew: its first poll would cost it the way to a cold GIL.
void begin_poll_interval();

// Asks the poll. It may run any Python code (signal handlers), launch kernels or fork.
bool stop_requested();

}  // namespace quernel
