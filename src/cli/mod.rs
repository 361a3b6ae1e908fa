//! Flags, logging and which command: everything between the shell and the layers below.
//!
//! | file | what it is |
//! |---|---|
//! | `serve` | the default: the server, and its flags |
//! | `predict` | lines of a file in, JSON Lines out |
//! | `health` | asks a running server whether it is ready |
//! | `devices`, `inspect` | what a model can run on, what is in one |
//! | `shell` | shell completions and man pages |
//! | `model` | which model, and where it runs: flags that several commands share |
//! | `batch` | how much is computed at once: the same |
//! | `warm_up` | what runs before the first text |
//! | `log` | what is logged: the same |
//! | `traces` | spans for OpenTelemetry, with the cargo feature `otel` |
//! | `progress` | bars on a terminal |

mod batch;
mod devices;
mod health;
mod inspect;
mod log;
mod model;
mod predict;
mod progress;
mod serve;
mod shell;
#[cfg(feature = "otel")]
mod traces;
mod warm_up;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use serve::ServeArguments;

/// Fills in the blanks of a text with BERT, over HTTP.
///
/// Without flags it serves the small demo model that it carries, on the CPU, at http://127.0.0.1:8000:
/// curl -X POST -d "Paris is the capital of [MASK]." http://localhost:8000/
#[derive(Debug, Parser)]
#[command(name = "cloze", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Serving is what happens without a subcommand, so its flags stand here too.
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers over HTTP; the same as no subcommand
    Serve(Box<ServeArguments>),
    /// Answers every line of a file, as JSON Lines in the same order
    ///
    /// A line is a text, or a request as the server takes it: {"inputs": ..., "parameters": {"top_k": ..., "targets":
    /// ...}}. Each line gets one line of output; one that cannot be answered gets {"error": ..., "error_type": ...,
    /// "line": ...}. The exit code is 0 if every line was answered, 3 if some were not, 1 if it could not go on, 2 for
    /// wrong flags, and 130 after Ctrl-C.
    Predict(Box<predict::PredictArguments>),
    /// Asks a running server whether it is ready; the exit code says so
    Health(health::HealthArguments),
    /// Lists what a model can run on here
    Devices,
    /// Tells what is in a model, whether it fits, and what of it would be refused
    Inspect(inspect::InspectArguments),
    /// Prints a completion script for a shell
    Completions(shell::CompletionsArguments),
    /// Prints the manual page
    Man(shell::ManArguments),
}

/// Runs the command that the user asked for.
///
/// # Errors
/// One sentence for the user.
pub fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let done = |()| ExitCode::SUCCESS;
    match arguments.command {
        None => serve::run(arguments.serve).map(done),
        Some(Command::Serve(arguments)) => serve::run(*arguments).map(done),
        Some(Command::Predict(arguments)) => predict::run(*arguments),
        Some(Command::Health(arguments)) => health::run(&arguments),
        Some(Command::Devices) => Ok(devices::run().map(done)?),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
        Some(Command::Completions(arguments)) => shell::completions(&arguments).map(done),
        Some(Command::Man(arguments)) => shell::man(&arguments).map(done),
    }
}

/// How long a driver may take to clean up behind a device that is lost or hangs.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Sees to it that the process ends soon: what drivers do at its end may hang as the device did.
fn end_for_sure() {
    std::thread::spawn(|| {
        std::thread::sleep(CLEAN_UP_TIMEOUT);
        std::process::abort();
    });
}

/// Prints lines; somebody who reads no further, as `head` does, is no error.
fn print(lines: &[impl AsRef<str>]) -> std::io::Result<()> {
    let mut text = String::new();
    for line in lines {
        text += line.as_ref();
        text.push('\n');
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
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
            assert_eq!(serve.model.threads.map(usize::from), Some(3), "{line}");
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
