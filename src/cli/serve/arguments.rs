//! Flags of `cloze serve`.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use cloze::engine::Limits;
use cloze::pipeline::MEMORY_BYTES_MAX;

use super::http::HttpArguments;
use crate::cli::batch::BatchArguments;
use crate::cli::log::LogArguments;
use crate::cli::model::ModelArguments;
use crate::cli::ranges::{BATCH_DELAY_MS_MAX, BODY_BYTES_MAX, QUEUE_SIZE_MAX, TIME_LIMIT_MS_MAX, within};

/// `cloze serve`, and `cloze` without a subcommand.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    pub model: ModelArguments,

    /// Name of the model in URLs such as /v2/models/NAME/infer [default: the name of its folder]
    #[arg(long, env = "CLOZE_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Address to listen on; 0.0.0.0 for all interfaces
    #[arg(long, env = "CLOZE_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 selects a free port, which is printed
    #[arg(long, env = "CLOZE_PORT", default_value_t = 8000)]
    pub port: u16,

    #[command(flatten)]
    pub batch: BatchArguments,

    /// Time that the first text of a batch waits for further texts. Texts that arrive while a batch is computed form
    /// the next batch in any case
    #[arg(long, env = "CLOZE_BATCH_DELAY_MS", default_value = "0", value_name = "MS",
          value_parser = within::<u64>(0..=BATCH_DELAY_MS_MAX))]
    pub batch_delay_ms: u64,

    /// Queue capacity in texts; further requests get status 503
    #[arg(long, env = "CLOZE_QUEUE_SIZE", default_value = "512", value_name = "TEXTS",
          value_parser = within::<usize>(1..=QUEUE_SIZE_MAX))]
    pub queue_size: usize,

    /// Time limit of a request, after which its status is 504
    #[arg(long, env = "CLOZE_REQUEST_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX))]
    pub request_timeout_ms: u64,

    /// Maximum size of a request body
    #[arg(long, env = "CLOZE_MAX_BODY_BYTES", default_value = "1048576", value_name = "BYTES",
          value_parser = within::<usize>(1..=BODY_BYTES_MAX))]
    pub max_body_bytes: usize,

    /// Maximum size of all request bodies and responses in memory; beyond it requests get status 503. A quarter is
    /// reserved for bodies and responses of at most 64 KiB [default: 134217728, or five times --max-body-bytes]
    #[arg(long, env = "CLOZE_MAX_BUFFERED_BYTES", value_name = "BYTES", value_parser = within::<usize>(1..=1 << 50))]
    pub max_buffered_bytes: Option<usize>,

    /// Time limit of a shutdown for accepted requests
    #[arg(long, env = "CLOZE_SHUTDOWN_TIMEOUT_MS", default_value = "10000", value_name = "MS",
          value_parser = within::<u64>(0..=TIME_LIMIT_MS_MAX))]
    pub shutdown_timeout_ms: u64,

    #[command(flatten)]
    pub http: HttpArguments,

    #[command(flatten)]
    pub log: LogArguments,
}

impl ServeArguments {
    /// The limit on the bytes of bodies and responses in memory.
    pub fn memory_max(&self) -> Result<usize, String> {
        let body_max = self.max_body_bytes;
        // The body, its texts, token ids and scores; the pieces of an answer; the part that is left to small ones.
        let needed = body_max.saturating_mul(5).saturating_add(2 << 20);
        match self.max_buffered_bytes {
            None => Ok(needed.max(MEMORY_BYTES_MAX)),
            Some(bytes) if bytes < needed => Err(format!(
                "--max-buffered-bytes {bytes} is too small for one request of --max-body-bytes {body_max} and its answer; set at least {needed}"
            )),
            Some(bytes) => Ok(bytes),
        }
    }

    /// The limits of the queue.
    pub fn limits(&self) -> Limits {
        Limits {
            batch_delay: Duration::from_millis(self.batch_delay_ms),
            queue_size: self.queue_size,
            ..Limits::default()
        }
    }
}
