//! `cloze completions` and `cloze man`, generated from the flags.

use std::error::Error;
use std::path::{Component, Path, PathBuf};

use clap::{Args, Command, ValueHint};
use clap_complete::Shell;

use super::{command, print, reference};

/// `cloze completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Shell to generate the script for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// `cloze man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Command whose page is printed, or a folder for the pages of all commands (cloze.1, cloze-serve.1, ...); the
    /// main page is printed without either
    ///
    /// A new folder in the current one is written as ./man, and so is a folder with the name of a command.
    #[arg(value_name = "COMMAND|DIR", value_hint = ValueHint::DirPath)]
    target: Option<PathBuf>,

    /// Print all flags and variables as Markdown
    #[arg(long, conflicts_with = "target")]
    markdown: bool,
}

impl ManArguments {
    /// Checks the name of a command.
    ///
    /// # Errors
    /// A name without a separator that is neither a command nor a folder, such as a command with a mistake in it.
    pub fn check(&self) -> Result<(), String> {
        let Some(target) = &self.target else {
            return Ok(());
        };
        let command = command();
        let is_new_name = target.components().eq([Component::Normal(target.as_os_str())]) && !target.exists();
        if !is_new_name
            || target
                .to_str()
                .is_some_and(|name| command.find_subcommand(name).is_some())
        {
            return Ok(());
        }
        let shown = target.display();
        let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        Err(format!(
            "{shown} is neither a command ({}) nor a folder; write ./{shown} to make the folder",
            names.join(", ")
        ))
    }
}

/// Prints a completion script.
pub fn completions(arguments: &CompletionsArguments) -> Result<(), Box<dyn Error>> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "cloze", &mut script);
    let script = String::from_utf8(script)?;
    let script = match arguments.shell {
        Shell::Fish => with_unfinished_flags(&script),
        _ => script,
    };
    Ok(print(&[script.trim_end()])?)
}

/// The line of fish's script that parses the words before the cursor.
const FISH_PARSES: &str = "argparse -s (__fish_cloze_global_optspecs) -- $cmd 2>/dev/null";

/// Lets fish complete the value of a flag without a command before it: `cloze --dtype `. There the words end with a
/// flag that lacks its value, which fish's parser refuses; they are parsed once more without the last word.
fn with_unfinished_flags(script: &str) -> String {
    script.replace(
        FISH_PARSES,
        &format!("{FISH_PARSES}\n    or {}", FISH_PARSES.replace("$cmd", "$cmd[1..-2]")),
    )
}

/// Prints the main manual page or that of a command, or writes the pages of all commands.
pub fn man(arguments: &ManArguments) -> Result<(), Box<dyn Error>> {
    if arguments.markdown {
        return Ok(print(&[reference::markdown().trim_end()])?);
    }
    let mut command = command().disable_help_subcommand(true);
    command.build();
    let Some(target) = &arguments.target else {
        return print_page(&command);
    };
    match target.to_str().and_then(|name| command.find_subcommand(name)) {
        Some(subcommand) => print_page(subcommand),
        None => write_pages(&command, target),
    }
}

fn print_page(command: &Command) -> Result<(), Box<dyn Error>> {
    let page = reference::manual_page(command)?;
    Ok(print(&[String::from_utf8(page)?.trim_end()])?)
}

fn write_pages(command: &Command, directory: &Path) -> Result<(), Box<dyn Error>> {
    let shown = directory.display();
    std::fs::create_dir_all(directory).map_err(|error| format!("{shown}: the folder cannot be created: {error}"))?;
    let mut count = 0;
    for page in std::iter::once(command).chain(command.get_subcommands()) {
        let path = directory.join(file_name(page));
        std::fs::write(&path, reference::manual_page(page)?)
            .map_err(|error| format!("{}: the page cannot be written: {error}", path.display()))?;
        count += 1;
    }
    Ok(print(&[format!("{count} pages written to {shown}")])?)
}

fn file_name(command: &Command) -> String {
    format!("{}.1", command.get_display_name().unwrap_or_else(|| command.get_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new version of the generator may write another line.
    #[test]
    fn the_script_for_fish_has_the_line_that_is_replaced() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Fish, &mut command(), "cloze", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains(FISH_PARSES), "{}", &script[..2000]);
    }
}
