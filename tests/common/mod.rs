//! Helpers that several test binaries share.
#![allow(dead_code, reason = "each test binary uses some of them")]

pub mod fixtures;
pub mod golden;
pub mod server;
