//! Cloze fills in the blanks of a text with BERT: a server, its engine and the model, in pure Rust.
//!
//! # Layout
//! Layers look down only; each knows what stands below it and nothing above.
//!
//! - [`server`]: HTTP, JSON, status codes. Knows no tensors.
//! - [`engine`]: the queue, deadlines, batches, the worker thread. Knows neither HTTP nor Burn.
//! - [`fill_mask`]: from text to token ids and from scores to sentences.
//! - [`checkpoint`]: `config.json`, tokenizer files, safetensors, the embedded demo model.
//! - [`bert`]: the architecture, once, generic over the backend.
//! - `crypto`: what TLS computes with.
//! - `memory`: how much of it the machine has.
//! - `panics`: what a caught panic says.
//! - [`backend`]: the few operations BERT needs, and how ndarray and wgpu run them.
//!
//! `ARCHITECTURE.md` follows a request through them.

#![recursion_limit = "256"]

#[cfg(not(any(feature = "cpu", feature = "gpu")))]
compile_error!("enable at least one of the features `cpu` and `gpu`: without a backend nothing can run");

pub mod backend;
pub mod bert;
pub mod checkpoint;
pub mod crypto;
pub mod engine;
pub mod fill_mask;
pub mod memory;
mod panics;
pub mod server;
