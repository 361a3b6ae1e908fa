//! The `cloze` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::parse();
    let result = cli::run(arguments);
    cli::flush_log();
    match result {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&cli::message(&*error));
            cli::exit_code(&*error)
        }
    }
}
