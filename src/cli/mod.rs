//! Command line: flags, logging, exit codes, and every message that names a flag.
//!
//! | file | responsibility |
//! |---|---|
//! | `serve` | `cloze serve`, the default: starts and stops the server |
//! | `predict` | `cloze predict`, `cloze score` and `cloze sparse`: answer the lines of a file as JSON Lines |
//! | `health` | `cloze health`: checks a running server |
//! | `devices` | `cloze devices`: lists the CPU and the GPU adapters |
//! | `inspect` | `cloze inspect`: shows the contents of a model |
//! | `shell` | `cloze completions` and `cloze man` |
//! | `reference` | all flags and variables as help, manual pages and Markdown |
//! | `headings` | the groups of flags in `--help` |
//! | `variables` | environment variables of flags |
//! | `exit` | exit codes |
//! | `advice` | adds to an error the flag or variable that helps |
//! | `model` | shared flags: model and backend |
//! | `batch` | shared flags: limits of batches |
//! | `log` | shared flags: logging |
//! | `log_writer` | writes log lines without blocking the threads that log |
//! | `traces` | export of OpenTelemetry traces, with the cargo feature `otel` |
//! | `progress` | progress bars |
//! | `values` | the values of numeric flags and switches |
//! | `runtime` | the threads that run async tasks |
//! | `output` | writes to standard output and standard error |

mod advice;
mod batch;
mod devices;
mod exit;
mod headings;
mod health;
mod inspect;
mod log;
mod log_writer;
mod model;
mod output;
mod predict;
mod progress;
mod reference;
mod runtime;
mod serve;
mod shell;
#[cfg(feature = "otel")]
mod traces;
mod values;
mod variables;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use serve::ServeArguments;

pub use exit::exit_code;
pub use log_writer::flush as flush_log;
pub use output::complain;
use output::print;
use reference::command;
use variables::named;
pub use variables::parse;

/// Server for masked language models: predicts the masked tokens of a text
///
/// Without flags it serves the embedded demo model on the CPU at http://127.0.0.1:8000. Try it with a page in a
/// browser, or with curl -d "Paris is the capital of [MASK]." http://localhost:8000/
#[derive(Debug, Parser)]
#[command(name = "cloze", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// `cloze` without a subcommand is `cloze serve`, so it has the same flags.
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the model over HTTP; the default without a subcommand
    Serve(Box<ServeArguments>),
    /// Answers each line of a file, as JSON Lines in the same order
    ///
    /// A line is a text, or a request in the server's format: {"inputs": ..., "parameters": {"top_k": ..., "targets":
    /// ...}}. Each line gets one line of output. A line with an error gets {"error": ..., "error_type": ..., "line":
    /// ...}.
    Predict(Box<predict::PredictArguments>),
    /// Scores each line of a file by its pseudo-log-likelihood, as JSON Lines in the same order
    ///
    /// A line is a text, or a request in the server's format: {"inputs": ..., "parameters": {"method": ...,
    /// "per_token": ...}}. Output and exit codes are those of predict.
    Score(Box<predict::ScoreArguments>),
    /// Turns each line of a file into a sparse vector (SPLADE), as JSON Lines in the same order
    ///
    /// A line is a text, or a request in the server's format: {"inputs": ..., "truncate": ...}. Output and exit codes
    /// are those of predict.
    Sparse(Box<predict::SparseArguments>),
    /// Checks whether a running server is ready; the exit code is the result
    Health(health::HealthArguments),
    /// Lists the CPU and the GPU adapters of this machine
    Devices,
    /// Describes a model and its memory, and lists every error that prevents serving it
    Inspect(inspect::InspectArguments),
    /// Prints a completion script for a shell
    Completions(shell::CompletionsArguments),
    /// Prints a manual page, or writes all of them into a folder
    Man(shell::ManArguments),
}

impl Arguments {
    /// Checks flags that need each other.
    ///
    /// # Errors
    /// A flag that would have no effect, or lacks another.
    fn check(&self) -> Result<(), String> {
        match &self.command {
            None => self.serve.check(),
            Some(Command::Serve(arguments)) => arguments.check(),
            Some(Command::Predict(arguments)) => arguments.check(),
            Some(Command::Score(arguments)) => arguments.check(),
            Some(Command::Sparse(arguments)) => arguments.check(),
            Some(Command::Inspect(arguments)) => arguments.check(),
            Some(Command::Man(arguments)) => arguments.check(),
            Some(Command::Health(arguments)) => arguments.check(),
            Some(Command::Devices | Command::Completions(_)) => Ok(()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Any error of the command; [`advice::message`] is its text for the user.
pub fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let done = |()| ExitCode::SUCCESS;
    match arguments.command {
        None => serve::run(arguments.serve).map(done),
        Some(Command::Serve(arguments)) => serve::run(*arguments).map(done),
        Some(Command::Predict(arguments)) => predict::predict(*arguments),
        Some(Command::Score(arguments)) => predict::score(*arguments),
        Some(Command::Sparse(arguments)) => predict::sparse(*arguments),
        Some(Command::Health(arguments)) => health::run(&arguments),
        Some(Command::Devices) => Ok(devices::run().map(done)?),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
        Some(Command::Completions(arguments)) => shell::completions(&arguments).map(done),
        Some(Command::Man(arguments)) => shell::man(&arguments).map(done),
    }
}

pub use advice::message;

/// Time that a driver gets to clean up after a lost or hung device.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Aborts the process after `timeout`, unless it has exited by then. Exit handlers of a driver can hang as its device
/// did.
fn abort_after(timeout: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(timeout);
        std::process::abort();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve_flags(line: &str) -> ServeArguments {
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        match arguments.command {
            None => arguments.serve,
            Some(Command::Serve(serve)) => *serve,
            Some(other) => panic!("{line} is {other:?}"),
        }
    }

    #[test]
    fn serving_needs_no_subcommand() {
        for line in ["cloze --port 9000 --threads 3", "cloze serve --port 9000 --threads 3"] {
            let serve = serve_flags(line);
            assert_eq!(serve.port, 9000, "{line}");
            assert_eq!(serve.model.threads, Some(3), "{line}");
        }
    }

    #[test]
    fn flags_before_a_subcommand_are_an_error() {
        let error = Arguments::try_parse_from(["cloze", "--port", "9000", "serve"]).unwrap_err();
        assert!(error.to_string().contains("serve"), "{error}");
    }

    #[test]
    fn every_flag_is_sound() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
