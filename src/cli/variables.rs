//! Environment variables of flags. An empty one counts as unset, and an error names the variable that a value came
//! from.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::OnceLock;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Error, FromArgMatches};

use super::exit::EXIT_USAGE;
use super::{Arguments, command, complain};

/// The names of flags in messages to the user of the command that runs.
#[derive(Default)]
struct Names {
    /// Flags whose values came from variables, each with the variable: `--port` and `CLOZE_PORT`.
    variables: Vec<(String, String)>,
    /// The model is an argument without a flag.
    has_bare_model: bool,
}

static NAMES: OnceLock<Names> = OnceLock::new();

/// The words of a message that name the flag of the model, which a command with [`Names::has_bare_model`] lacks.
const WITH_MODEL_FLAG: &str = " with --model";

/// Parses the command line and the environment. Prints help, or an error with exit code 2, and ends the process.
pub fn parse() -> Arguments {
    let line: Vec<OsString> = std::env::args_os().collect();
    let mut definitions = without_variables(command(), &|name| value(&name.to_string_lossy()).is_none());
    definitions.build();
    match parse_with(&definitions, &line) {
        Ok((arguments, names)) => {
            let names = NAMES.get_or_init(|| names);
            if let Err(message) = arguments.check() {
                complain(&rename(&message, names));
                std::process::exit(EXIT_USAGE.into());
            }
            arguments
        }
        // Help lists the variables that are unset, too.
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            command().try_get_matches_from(&line).err().unwrap_or(error).exit()
        }
        Err(error) => with_place_of_model(error, &line).exit(),
    }
}

/// Adds the place of the model to an error of a command line that has it where a command is, or before the command.
fn with_place_of_model(mut error: Error, line: &[OsString]) -> Error {
    let invalid = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg].map(|kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    });
    let advice = match (error.kind(), invalid) {
        (ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument, [Some(text), _] | [None, Some(text)])
            if line.get(1).is_some_and(|first| *first == *text) && !text.starts_with('-') =>
        {
            let is_model = text.contains(['/', std::path::MAIN_SEPARATOR]) || Path::new(&text).is_dir();
            is_model.then(|| format!("a model is given with --model: cloze --model {text}"))
        }
        (ErrorKind::ArgumentConflict, _) => {
            let command = line.iter().skip(1).find_map(|word| {
                let word = word.to_str()?;
                command().find_subcommand(word).map(|_| word.to_owned())
            });
            command.map(|command| format!("flags follow the command: cloze {command} --model DIR|NAME"))
        }
        _ => None,
    };
    if let Some(advice) = advice {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    }
    error
}

/// A message in which each flag whose value came from a variable is named by the variable, and which does not name the
/// flag of the model to a command without it.
pub fn named(message: &str) -> String {
    NAMES
        .get()
        .map_or_else(|| message.to_owned(), |names| rename(message, names))
}

/// The value of a variable, unless it is unset or counts as unset.
pub fn value(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !is_unset(name, value))
}

/// An empty variable, and the address that Kubernetes puts into `CLOZE_PORT` of a pod beside a Service named cloze.
fn is_unset(name: &str, value: &OsStr) -> bool {
    value.is_empty() || name == "CLOZE_PORT" && value.as_encoded_bytes().starts_with(b"tcp://")
}

fn parse_with(definitions: &Command, line: &[OsString]) -> Result<(Arguments, Names), Error> {
    let mut command = definitions.clone();
    let matches = command.try_get_matches_from_mut(line);
    let matches = matches.map_err(|error| with_variable(error, definitions, line))?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((arguments, names(definitions, &matches)))
}

/// Puts the variable in place of the flag in an error about a value that came from the variable.
fn with_variable(mut error: Error, definitions: &Command, line: &[OsString]) -> Error {
    let Some(flag) = invalid_flag(&error) else {
        return error;
    };
    let Some(variable) = variable_of(definitions, &flag) else {
        return error;
    };
    let without = without_variables(definitions.clone(), &|name| name == variable);
    let again = without.try_get_matches_from(line).err();
    // Without the variable the command line has the same error.
    if again.and_then(|error| invalid_flag(&error)) == Some(flag) {
        return error;
    }
    let variable = variable.to_string_lossy().into_owned();
    error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    error
}

/// The flag that an error is about, with its value names: `--port <PORT>`.
fn invalid_flag(error: &Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(flag) => Some(flag.clone()),
        _ => None,
    }
}

fn variable_of(command: &Command, flag: &str) -> Option<OsString> {
    let argument = command.get_arguments().find(|each| each.to_string() == flag);
    let variable = argument.and_then(|argument| argument.get_env().map(OsStr::to_owned));
    variable.or_else(|| command.get_subcommands().find_map(|each| variable_of(each, flag)))
}

fn without_variables(command: Command, is_removed: &dyn Fn(&OsStr) -> bool) -> Command {
    command
        .mut_args(|argument| match argument.get_env().is_some_and(is_removed) {
            true => argument.env(None::<&'static str>),
            false => argument,
        })
        .mut_subcommands(|each| without_variables(each, is_removed))
}

/// The names of the command that runs.
fn names(command: &Command, matches: &ArgMatches) -> Names {
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        return names(command, matches);
    }
    let from_variable = |argument: &clap::Arg| {
        let (flag, variable) = (argument.get_long()?, argument.get_env()?);
        let source = matches.value_source(argument.get_id().as_str());
        let source_is_variable = source == Some(ValueSource::EnvVariable);
        source_is_variable.then(|| (format!("--{flag}"), variable.to_string_lossy().into_owned()))
    };
    let is_bare_model = |argument: &clap::Arg| argument.get_id() == "model" && argument.is_positional();
    Names {
        variables: command.get_arguments().filter_map(from_variable).collect(),
        has_bare_model: command.get_arguments().any(is_bare_model),
    }
}

fn rename(message: &str, names: &Names) -> String {
    let message = match names.has_bare_model {
        true => &message.replace(WITH_MODEL_FLAG, ""),
        false => message,
    };
    let is_of_flag = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut renamed = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(begin) = rest.find("--") {
        let (before, flag) = rest.split_at(begin);
        let (flag, after) = flag.split_at(flag.find(|c| !is_of_flag(c)).unwrap_or(flag.len()));
        let source = names.variables.iter().find(|(of, _)| of == flag);
        renamed += before;
        renamed += source.map_or(flag, |(_, variable)| variable);
        rest = after;
    }
    renamed + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_renamed_where_its_whole_name_is() {
        let names = Names {
            variables: vec![("--max-batch".to_owned(), "CLOZE_MAX_BATCH".to_owned())],
            has_bare_model: false,
        };
        let renamed = rename(
            "--max-batch-tokens and --max-batch: -- no; pass it with --model",
            &names,
        );
        assert_eq!(
            renamed,
            "--max-batch-tokens and CLOZE_MAX_BATCH: -- no; pass it with --model"
        );
    }

    #[test]
    fn the_flag_of_the_model_is_not_named_where_the_model_has_none() {
        let names = Names {
            has_bare_model: true,
            ..Names::default()
        };
        assert_eq!(
            rename("pass DIR with --model, or --json", &names),
            "pass DIR, or --json"
        );
    }

    #[test]
    fn empty_variables_and_service_links_count_as_unset() {
        for (name, value, expected) in [
            ("CLOZE_PORT", "", true),
            ("CLOZE_PORT", "tcp://10.0.0.1:8000", true),
            ("CLOZE_PORT", "9000", false),
            ("CLOZE_MODEL", "tcp://x", false),
        ] {
            assert_eq!(is_unset(name, OsStr::new(value)), expected, "{name}={value}");
        }
    }
}
