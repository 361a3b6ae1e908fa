//! Flags of logging. Log lines go to standard error.

use std::error::Error;
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, registry};

use super::headings::LOGGING;

/// Flags of every command that logs.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// Level of log lines: error, warn, info, debug, trace or off, or a filter such as info,cloze=debug
    ///
    /// Set it to warn to leave out a line for each request, and to cloze=debug to find a fault.
    #[arg(short, long, env = "CLOZE_LOG", default_value = "info", value_name = "LEVEL", help_heading = LOGGING)]
    pub log: String,

    /// Format of log lines
    ///
    /// Set it to json for a program that collects logs.
    #[arg(long, env = "CLOZE_LOG_FORMAT", value_enum, ignore_case = true, default_value = "text",
          help_heading = LOGGING)]
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

/// Parses the filter. In tracing's own syntax a word that is no level is a target, and everything else is off.
fn filter(text: &str) -> Result<EnvFilter, String> {
    // An empty word parses as the level error.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if let Some(part) = parts.iter().find(|part| !part.contains('=') && !is_level(part)) {
        return Err(format!(
            "--log: \"{part}\" is not a level; write error, warn, info, debug, trace or off, or a filter such as \
             info,cloze=debug"
        ));
    }
    let filter = EnvFilter::try_new(parts.join(","));
    filter.map_err(|error| format!("--log: \"{text}\" is not a log filter: {error}"))
}

impl LogArguments {
    /// Checks the level.
    ///
    /// # Errors
    /// It is no level and no filter.
    pub fn check(&self) -> Result<(), String> {
        filter(&self.log).map(drop)
    }

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
        let filter = filter(&self.log)?;
        let filter = QUIET.into_iter().fold(filter, |filter, directive| {
            filter.add_directive(directive.parse().expect("a valid directive"))
        });
        let writer = super::log_writer::stderr()?;
        // The module of a line is of use to find a fault, for which the level is debug.
        let shows_modules = filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
        let log = tracing_subscriber::fmt::layer()
            .with_target(shows_modules)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(move || writer.clone());
        let log = match self.log_format {
            LogFormat::Text => log.boxed(),
            LogFormat::Json => log.with_target(true).json().flatten_event(true).boxed(),
        };
        Ok(log.with_filter(filter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,cloze=debug",
            "cloze=debug,poem=warn",
            "info, cloze=trace",
        ] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["foo", "verbose", "inof", "", "info,", "info,cloze", "cloze=bogus"] {
            let error = filter(text).unwrap_err();
            assert!(error.starts_with("--log: "), "{text}: {error}");
        }
    }
}
