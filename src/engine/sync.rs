//! The locks of the queue. A test of its interleavings compiles `queue.rs` with others in place of these.

pub use std::sync::Mutex;
