//! Flags, logging and which command: everything between the shell and the layers below.

pub mod serve;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Fills in the blanks of a text with BERT, over HTTP.
///
/// Without flags it serves the small demo model that it carries, on the CPU, at http://127.0.0.1:8000:
/// curl -X POST -d "Paris is the capital of [MASK]." http://localhost:8000/
#[derive(Debug, Parser)]
#[command(name = "cloze", version)]
pub struct Arguments {
    /// Folder with config.json, tokenizer.json (or vocab.txt) and model.safetensors [default: the embedded
    /// demo model]
    #[arg(long, env = "CLOZE_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,

    /// What the model is called in addresses such as /v2/models/NAME/infer [default: its folder's name]
    #[arg(long, env = "CLOZE_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Where the model runs
    #[arg(long, env = "CLOZE_BACKEND", value_enum, default_value = "cpu")]
    pub backend: Backend,

    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, env = "CLOZE_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 picks a free one and prints it
    #[arg(long, env = "CLOZE_PORT", default_value_t = 8000)]
    pub port: u16,

    /// Tokens computed at once at most
    #[arg(long, env = "CLOZE_MAX_BATCH_TOKENS", default_value = "2048", value_name = "TOKENS")]
    pub max_batch_tokens: NonZeroUsize,

    /// Texts computed at once at most
    #[arg(long, env = "CLOZE_MAX_BATCH_SIZE", default_value = "64", value_name = "TEXTS")]
    pub max_batch_size: NonZeroUsize,

    /// How long a batch waits for company, from its first text on; a batch also forms without, while the
    /// one before it runs
    #[arg(long, env = "CLOZE_BATCH_DELAY_MS", default_value_t = 0, value_name = "MS")]
    pub batch_delay_ms: u64,

    /// Texts that may wait; more are refused with 503
    #[arg(long, env = "CLOZE_QUEUE_SIZE", default_value = "512", value_name = "TEXTS")]
    pub queue_size: NonZeroUsize,

    /// How long a request may take before it is answered with 504
    #[arg(long, env = "CLOZE_REQUEST_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub request_timeout_ms: u64,

    /// Tokens of one text at most [default: what the model can take]
    #[arg(long, env = "CLOZE_MAX_INPUT_TOKENS", value_name = "TOKENS")]
    pub max_input_tokens: Option<NonZeroUsize>,

    /// Bytes of one request body at most
    #[arg(long, env = "CLOZE_MAX_BODY_BYTES", default_value = "1048576", value_name = "BYTES")]
    pub max_body_bytes: NonZeroUsize,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, env = "CLOZE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// How long a stop waits for accepted requests
    #[arg(long, env = "CLOZE_SHUTDOWN_TIMEOUT_MS", default_value_t = 10_000, value_name = "MS")]
    pub shutdown_timeout_ms: u64,

    /// What is logged: error, warn, info, debug or trace, or a filter such as cloze=debug,poem=warn
    #[arg(long, env = "CLOZE_LOG", default_value = "info", value_name = "LEVEL")]
    pub log: String,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The CPU, through ndarray
    Cpu,
    /// A GPU, through wgpu: Vulkan, Metal or DX12
    Gpu,
}
