//! Flags, logging and which command: everything between the shell and the layers below.
//!
//! | file | what it is |
//! |---|---|
//! | `serve` | the default: the server, and its flags |
//! | `shell` | shell completions and man pages |
//! | `model` | which model, and where it runs: flags that several commands share |
//! | `batch` | how much is computed at once: the same |
//! | `log` | what is logged: the same |
//! | `progress` | bars on a terminal |

mod batch;
mod log;
mod model;
mod progress;
mod serve;
mod shell;

use std::error::Error;

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
    /// Prints a completion script for a shell
    Completions(shell::CompletionsArguments),
    /// Prints the manual page
    Man(shell::ManArguments),
}

/// Runs the command that the user asked for.
///
/// # Errors
/// One sentence for the user.
pub fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.command {
        None => serve::run(arguments.serve),
        Some(Command::Serve(arguments)) => serve::run(*arguments),
        Some(Command::Completions(arguments)) => shell::completions(&arguments),
        Some(Command::Man(arguments)) => shell::man(&arguments),
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
