//! Flags of logging. Log lines go to standard error.

use std::error::Error;
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, registry};

/// Flags of every command that logs.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// Log filter: error, warn, info, debug, trace, or directives such as cloze=debug,poem=warn
    #[arg(long, env = "CLOZE_LOG", default_value = "info", value_name = "LEVEL")]
    pub log: String,

    /// Format of log lines
    #[arg(long, env = "CLOZE_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

/// Libraries whose info level is of no use to a user.
const QUIET: [&str; 6] = [
    "poem=warn",
    "wgpu_core=warn",
    "wgpu_hal=warn",
    "naga=warn",
    "cubecl_wgpu=warn",
    "cubecl_runtime=warn",
];

impl LogArguments {
    /// Starts logging. Call it once per process.
    pub fn start(&self) -> Result<(), Box<dyn Error>> {
        registry().with(self.layer()?).init();
        Ok(())
    }

    /// Starts logging and, if OpenTelemetry's variables name a collector, traces. Dropping the result flushes them.
    #[cfg(feature = "otel")]
    pub fn start_with_traces(&self) -> Result<Option<super::traces::Traces>, Box<dyn Error>> {
        let (layer, traces) = super::traces::start()?.unzip();
        registry().with(layer).with(self.layer()?).init();
        Ok(traces)
    }

    fn layer<S>(&self) -> Result<impl Layer<S> + use<S>, Box<dyn Error>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let filter = &self.log;
        let filter = EnvFilter::try_new(filter).map_err(|e| format!("--log \"{filter}\" is not a log filter: {e}"))?;
        let filter = QUIET.into_iter().fold(filter, |filter, directive| {
            filter.add_directive(directive.parse().expect("a valid directive"))
        });
        let writer = super::log_writer::stderr()?;
        let log = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(move || writer.clone());
        let log = match self.log_format {
            LogFormat::Text => log.boxed(),
            LogFormat::Json => log.json().flatten_event(true).boxed(),
        };
        Ok(log.with_filter(filter))
    }
}
