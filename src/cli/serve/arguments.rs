//! The server's flags.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use cloze::engine::Limits;

use super::http::HttpArguments;
use crate::cli::batch::BatchArguments;
use crate::cli::log::LogArguments;
use crate::cli::model::ModelArguments;

/// `cloze serve`, and `cloze` without a subcommand.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    pub model: ModelArguments,

    /// What the model is called in addresses such as /v2/models/NAME/infer [default: its folder's name]
    #[arg(long, env = "CLOZE_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, env = "CLOZE_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 picks a free one and prints it
    #[arg(long, env = "CLOZE_PORT", default_value_t = 8000)]
    pub port: u16,

    #[command(flatten)]
    pub batch: BatchArguments,

    /// How long a batch waits for company, from its first text on; a batch also forms without, while the
    /// one before it runs
    #[arg(long, env = "CLOZE_BATCH_DELAY_MS", default_value_t = 0, value_name = "MS")]
    pub batch_delay_ms: u64,

    /// Texts that may wait; a request that finds as many is refused with 503
    #[arg(long, env = "CLOZE_QUEUE_SIZE", default_value = "512", value_name = "TEXTS")]
    pub queue_size: NonZeroUsize,

    /// How long a request may take before it is answered with 504
    #[arg(long, env = "CLOZE_REQUEST_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub request_timeout_ms: u64,

    /// Bytes of one request body at most
    #[arg(long, env = "CLOZE_MAX_BODY_BYTES", default_value = "1048576", value_name = "BYTES")]
    pub max_body_bytes: NonZeroUsize,

    /// How long a stop waits for accepted requests
    #[arg(long, env = "CLOZE_SHUTDOWN_TIMEOUT_MS", default_value_t = 10_000, value_name = "MS")]
    pub shutdown_timeout_ms: u64,

    #[command(flatten)]
    pub http: HttpArguments,

    #[command(flatten)]
    pub log: LogArguments,
}

impl ServeArguments {
    /// The engine's limits.
    pub fn limits(&self) -> Limits {
        Limits {
            batch_tokens_max: self.batch.max_batch_tokens.into(),
            batch_size_max: self.batch.max_batch_size.into(),
            batch_delay: Duration::from_millis(self.batch_delay_ms),
            queue_size: self.queue_size.into(),
        }
    }
}
