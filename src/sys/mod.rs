//! The operating system and the process: memory, CPU, file descriptors, panics, the crypto provider of TLS.
//!
//! | file | what it reads or sets |
//! |---|---|
//! | `memory` | total, available and resident memory |
//! | `cpu` | the CPU's model name |
//! | `descriptors` | the limit on open files |
//! | `process` | CPU time, threads and descriptors of this process |
//! | `panics` | a panic as an error value |
//! | `excerpt` | bounded parts of texts for messages |
//! | `crypto` | rustls' crypto provider, and the TLS configuration of HTTP clients |

pub mod cpu;
pub mod crypto;
pub mod descriptors;
pub mod excerpt;
pub mod memory;
pub mod panics;
pub mod process;
