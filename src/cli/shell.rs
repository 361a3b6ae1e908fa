//! `cloze completions` and `cloze man`, generated from the flags.

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, print};

/// `cloze completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Shell to generate the script for
    shell: Shell,
}

/// `cloze man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Folder for the pages of all subcommands (cloze.1, cloze-serve.1, ...); without it, the main page is printed
    directory: Option<PathBuf>,
}

/// Prints a completion script.
pub fn completions(arguments: &CompletionsArguments) -> Result<(), Box<dyn Error>> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "cloze", &mut script);
    Ok(print(&[String::from_utf8(script)?.trim_end()])?)
}

/// Prints the main manual page, or writes the pages of all subcommands.
pub fn man(arguments: &ManArguments) -> Result<(), Box<dyn Error>> {
    let command = Arguments::command();
    match &arguments.directory {
        Some(directory) => clap_mangen::generate_to(command, directory)
            .map_err(|e| format!("cannot write the pages to {}: {e}", directory.display()))?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            print(&[String::from_utf8(page)?.trim_end()])?;
        }
    }
    Ok(())
}
