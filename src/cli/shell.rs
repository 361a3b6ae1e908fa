//! Completions and manual pages, made from the flags themselves.

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, print};

/// `cloze completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell that the script is for
    shell: Shell,
}

/// `cloze man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Folder to write the pages of all subcommands into, as cloze.1, cloze-serve.1 and so on, instead of
    /// printing the first
    directory: Option<PathBuf>,
}

/// Prints a completion script.
pub fn completions(arguments: &CompletionsArguments) -> Result<(), Box<dyn Error>> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "cloze", &mut script);
    Ok(print(&[String::from_utf8(script)?.trim_end()])?)
}

/// Prints the manual page, or writes those of all subcommands.
pub fn man(arguments: &ManArguments) -> Result<(), Box<dyn Error>> {
    let command = Arguments::command();
    match &arguments.directory {
        Some(directory) => clap_mangen::generate_to(command, directory)
            .map_err(|e| format!("the pages cannot be written into {}: {e}", directory.display()))?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            print(&[String::from_utf8(page)?.trim_end()])?;
        }
    }
    Ok(())
}
