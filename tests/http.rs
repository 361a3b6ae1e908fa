//! The `cloze` binary as a user runs it: started, sent requests over HTTP, stopped by a signal.

mod common;

mod http {
    mod bad_heads;
    mod bad_input;
    mod basics;
    mod command_line;
    mod connections;
    mod faults;
    mod log;
    mod operations;
    mod tls;
    mod waiting;
}
