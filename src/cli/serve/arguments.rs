//! Flags of `cloze serve`.

use std::time::Duration;

use clap::{Args, ValueHint};
use cloze::engine::Limits;
use cloze::pipeline::MEMORY_BYTES_MAX;

use super::http::HttpArguments;
use crate::cli::batch::BatchArguments;
use crate::cli::headings::{BATCHING, HTTP, MODEL};
use crate::cli::log::LogArguments;
use crate::cli::model::ModelArguments;
use crate::cli::values::{BATCH_DELAY_MS_MAX, BODY_BYTES_MAX, PORT_MAX, QUEUE_SIZE_MAX, TIME_LIMIT_MS_MAX, within};

/// `cloze serve`, and `cloze` without a subcommand.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    pub model: ModelArguments,

    /// Name of the model in the paths of the v2 protocol, /v2/models/NAME [default: the last part of the folder's or
    /// the hub's name]
    ///
    /// Set it so that the paths of clients stay the same when the model changes.
    #[arg(long, env = "CLOZE_SERVED_MODEL_NAME", value_name = "NAME", help_heading = MODEL)]
    pub served_model_name: Option<String>,

    #[command(flatten)]
    pub batch: BatchArguments,

    /// Time that the first text of a batch waits for further texts
    ///
    /// Leave it at 0: texts that arrive while a batch is computed form the next batch in any case. Some milliseconds
    /// make batches larger on a GPU that is mostly idle.
    #[arg(long, env = "CLOZE_BATCH_DELAY_MS", default_value = "0", value_name = "MS",
          value_parser = within::<u64>(0..=BATCH_DELAY_MS_MAX), help_heading = BATCHING)]
    pub batch_delay_ms: u64,

    /// Texts that may wait, and the most texts of one request; further requests get status 503
    ///
    /// Set it to the number of texts that the model computes within --request-timeout-ms.
    #[arg(long, env = "CLOZE_QUEUE_SIZE", default_value = "512", value_name = "TEXTS",
          value_parser = within::<usize>(1..=QUEUE_SIZE_MAX), help_heading = BATCHING)]
    pub queue_size: usize,

    /// Address to listen on: an IP address, or a name that resolves to one
    ///
    /// Set it to 0.0.0.0 (or :: for IPv6) to accept connections from other machines; then set --api-key and TLS too, or
    /// put a proxy in front. Without a key a warning is logged.
    #[arg(long, env = "CLOZE_HOST", default_value = "127.0.0.1", value_name = "HOST", value_hint = ValueHint::Hostname,
          help_heading = HTTP)]
    pub host: String,

    /// Port to listen on; 0 selects a free port, which is printed
    ///
    /// Set it if another program uses the port.
    #[arg(short, long, env = "CLOZE_PORT", default_value = "8000", value_name = "PORT",
          value_parser = within::<u16>(0..=PORT_MAX), help_heading = HTTP)]
    pub port: u16,

    /// Time limit of a request, after which it gets status 504
    ///
    /// Set it to the time for which clients wait; raise it for long scoring requests.
    #[arg(long, env = "CLOZE_REQUEST_TIMEOUT_MS", default_value = "30000", value_name = "MS",
          value_parser = within::<u64>(1..=TIME_LIMIT_MS_MAX), help_heading = HTTP)]
    pub request_timeout_ms: u64,

    /// Bytes of the largest request body; a larger one gets status 413
    ///
    /// Raise it for long lists of texts.
    #[arg(long, env = "CLOZE_MAX_BODY_BYTES", default_value = "1048576", value_name = "BYTES",
          value_parser = within::<usize>(1..=BODY_BYTES_MAX), help_heading = HTTP)]
    pub max_body_bytes: usize,

    /// Bytes of all request bodies and answers in memory; beyond them requests get status 503 [default: 134217728, or
    /// five times --max-body-bytes]
    ///
    /// Lower it in a container with little memory. A quarter is reserved for bodies and answers of at most 64 KiB.
    #[arg(long, env = "CLOZE_MAX_BUFFERED_BYTES", value_name = "BYTES", value_parser = within::<usize>(1..=1 << 50),
          help_heading = HTTP)]
    pub max_buffered_bytes: Option<usize>,

    /// Time that accepted requests get to finish after SIGTERM or Ctrl-C
    ///
    /// Keep twice this time below the grace period of the supervisor: requests and the last batch get it once each.
    #[arg(long, env = "CLOZE_SHUTDOWN_TIMEOUT_MS", default_value = "10000", value_name = "MS",
          value_parser = within::<u64>(0..=TIME_LIMIT_MS_MAX), help_heading = HTTP)]
    pub shutdown_timeout_ms: u64,

    #[command(flatten)]
    pub http: HttpArguments,

    #[command(flatten)]
    pub log: LogArguments,
}

impl ServeArguments {
    /// Checks values, and flags that need each other.
    ///
    /// # Errors
    /// A value that is not valid, and a flag that would have no effect or lacks another.
    pub fn check(&self) -> Result<(), String> {
        self.log.check()?;
        self.model.check()?;
        self.http.check()?;
        self.memory_max()?;
        match &self.served_model_name {
            Some(name) => check_name(name),
            None => Ok(()),
        }
    }

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

/// Checks the name of a model in URLs.
///
/// # Errors
/// A name that cannot be a part of a path.
pub fn check_name(name: &str) -> Result<(), String> {
    match name.is_empty() || name.contains(['/', '\\']) {
        true => Err(format!(
            "--served-model-name \"{name}\" cannot be part of a URL path; use letters, digits, - and _"
        )),
        false => Ok(()),
    }
}
