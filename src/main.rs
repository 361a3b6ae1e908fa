//! The `cloze` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cloze: {}", cli::message(&*error));
            ExitCode::FAILURE
        }
    }
}
