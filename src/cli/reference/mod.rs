//! The definitions of the command line as a reference: help, manual pages, and `docs/configuration.md`.
//!
//! | file | subject |
//! |---|---|
//! | `extras` | examples, exit codes, variables without a flag, files |
//! | `manual` | manual pages |
//! | `markdown` | `docs/configuration.md` |

mod extras;
mod manual;
mod markdown;

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use super::Arguments;
use extras::extras;
pub use manual::manual_page;
pub use markdown::markdown;

/// The definitions of all commands and flags, with examples and exit codes in their help.
pub fn command() -> Command {
    with_help(Arguments::command())
}

fn with_help(command: Command) -> Command {
    let extras = extras(command.get_name());
    let width = |rows: &[(&str, &str)]| rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    let mut text = String::from("Examples:\n");
    for (line, purpose) in extras.examples {
        let _ = writeln!(text, "  {line}\n      {purpose}");
    }
    text += "\nExit codes:\n";
    for (code, meaning) in extras.exit {
        let _ = writeln!(text, "  {code:width$}  {meaning}", width = width(extras.exit));
    }
    if command.get_arguments().any(|argument| argument.get_id() == "model") {
        text +=
            "\nVariables without a flag, such as HF_TOKEN and CLOZE_CPU_FEATURES: section ENVIRONMENT of `cloze man`\n";
    }
    command
        .after_long_help(text)
        // A key would be shown, and help would differ between machines.
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(with_help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_of_serve_has_a_group_a_variable_and_one_sentence() {
        let command = command();
        let serve = command.find_subcommand("serve").unwrap();
        for argument in serve.get_arguments() {
            let flag = argument.get_long().unwrap();
            assert!(argument.get_help_heading().is_some(), "--{flag}");
            let variable = format!("CLOZE_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().unwrap(), variable.as_str());
            let help = argument.get_help().unwrap().to_string();
            assert!(!help.contains(". ") && !help.ends_with('.'), "--{flag}: {help}");
            assert!(argument.get_long_help().is_some(), "--{flag}: when to set it");
        }
    }
}
