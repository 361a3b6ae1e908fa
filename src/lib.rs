//! Cloze serves masked language models: it fills in the masks of a text, over HTTP or as a library, in pure Rust.
//!
//! ```
//! # #[cfg(feature = "cpu")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cloze = cloze::Cloze::demo()?;
//! let masks = cloze.fill_mask("Paris is the capital of [MASK].").await?;
//! let best = &masks[0][0];
//! assert_eq!(best.token_str, "france");
//! println!("{} ({:.0} %)", best.sequence, 100.0 * best.score);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "cpu"))]
//! # fn main() {}
//! ```
//!
//! [`Cloze::builder`] opens other models and sets limits, [`Cloze::serve`] serves one over HTTP; `examples/` has
//! programs.
//!
//! # Layout
//! Each module uses those below it in this list and none above it.
//!
//! - `open`: [`Cloze`], which opens a model, answers and serves.
//! - [`server`]: HTTP, JSON, status codes. Knows no tensors.
//! - [`api`]: wire types: request and answer bodies, errors.
//! - [`pipeline`]: one request, from admission to answer.
//! - [`tasks`]: from a request to sequences, and from scores to its answer.
//! - [`text`]: the tokenizer at run time.
//! - [`engine`]: the queue, deadlines, batches, the worker thread. Knows neither HTTP nor Burn.
//! - [`lm`]: the seam: sequences in, log-probabilities out; loading a checkpoint onto a backend.
//! - [`encoder`]: the architecture, once, generic over the backend; one file for each model family.
//! - [`checkpoint`]: `config.json`, tokenizer files, safetensors, the embedded demo model.
//! - [`backend`]: the operations that an encoder needs, on ndarray and on wgpu.
//! - [`hub`]: the Hugging Face hub's cache and downloads.
//! - [`work`]: CPU work of requests in slices, shared fairly.
//! - [`sys`]: memory, CPU, file descriptors, panics, the crypto provider of TLS.
//!
//! `ARCHITECTURE.md` follows a request through them.

#![recursion_limit = "256"]

#[cfg(not(any(feature = "cpu", feature = "gpu")))]
compile_error!("enable at least one of the features `cpu` and `gpu`: without a backend nothing can run");

pub mod api;
pub mod backend;
pub mod checkpoint;
pub mod encoder;
pub mod engine;
pub mod hub;
pub mod lm;
mod open;
pub mod pipeline;
pub mod server;
pub mod sys;
pub mod tasks;
pub mod text;
pub mod work;

pub use open::{BatchTimeout, Builder, Cloze, OpenError, WarmUpExtent};
