//! Helpers that several test binaries share.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses some of them"
)]

pub mod fixtures;
pub mod golden;
pub mod harness;
pub mod machine;
pub mod server;
