//! `docs/configuration.md`.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command};

use super::command;
use super::extras::{VARIABLES, extras};

const MARKDOWN: &str = "\
# Configuration

<!-- `cloze man --markdown` writes this file; a test compares it. -->

All flags and environment variables, as `cloze --help` shows them. Every flag of `serve` has a variable.

- A flag on the command line takes precedence over its variable. An empty variable counts as unset, and so does a
  `CLOZE_PORT` that begins with `tcp://`, which Kubernetes sets in pods beside a Service named cloze.
- A switch takes `1`, `true`, `yes` or `on`, and `0`, `false`, `no` or `off` in its variable. A flag that may be repeated
  takes several values between commas.
- Times are in milliseconds, sizes in bytes. A value outside its range is refused before anything starts. The error names
  the flag, or the variable if the value came from there.
- `cloze` without a command is `cloze serve`.
";

/// The page.
pub fn markdown() -> String {
    let mut command = command();
    command.build();
    let mut page = MARKDOWN.to_owned();
    let commands = |name: &str| command.find_subcommand(name).expect("a command of this name");
    let serve = commands("serve");
    let mut listed: Vec<String> = Vec::new();
    for name in [
        "serve",
        "predict",
        "score",
        "sparse",
        "inspect",
        "health",
        "devices",
        "completions",
        "man",
    ] {
        let of = commands(name);
        let about = of.get_about().map(StyledStr::to_string).unwrap_or_default();
        let _ = write!(page, "\n## cloze {name}\n\n{about}.\n");
        for heading in headings(of) {
            let is_new = |argument: &&Arg| {
                let id = argument.get_id().as_str();
                name == "serve" || argument.is_positional() || name == "health" || !listed.iter().any(|of| of == id)
            };
            let rows: Vec<&Arg> = of
                .get_arguments()
                .filter(|argument| argument.get_help_heading() == heading && argument.get_id() != "help")
                .filter(is_new)
                .collect();
            if rows.is_empty() {
                continue;
            }
            if let Some(heading) = heading {
                let _ = write!(page, "\n### {heading}\n");
            }
            page += "\n| flag | variable | default | meaning |\n|---|---|---|---|\n";
            for argument in rows {
                page += &row(argument);
            }
        }
        if ["predict", "score", "sparse"].contains(&name) {
            let flags = of
                .get_arguments()
                .filter(|each| listed.iter().any(|id| each.get_id() == id));
            let flags: Vec<String> = flags
                .filter_map(|each| Some(format!("`--{}`", each.get_long()?)))
                .collect();
            let _ = write!(page, "\nIt takes these flags of `serve` too: {}.\n", flags.join(", "));
        }
        if name == "serve" {
            listed = serve.get_arguments().map(|each| each.get_id().to_string()).collect();
        }
        page += &examples(name);
    }
    page += "\n## Other variables\n\n| variable | meaning |\n|---|---|\n";
    for (variable, meaning) in VARIABLES {
        let names: Vec<String> = variable.split(", ").map(|name| format!("`{name}`")).collect();
        let (meaning, default) = split_default(meaning);
        let default = default
            .map(|default| format!(" (default: {default})"))
            .unwrap_or_default();
        let _ = writeln!(page, "| {} | {}{} |", names.join(", "), cell(&meaning), cell(&default));
    }
    page
}

fn examples(name: &str) -> String {
    let extras = extras(name);
    let mut text = String::from("\n| example | purpose |\n|---|---|\n");
    for (line, purpose) in extras.examples {
        let _ = writeln!(text, "| `{}` | {} |", line.replace('|', "\\|"), cell(purpose));
    }
    text += "\n| exit code | meaning |\n|---|---|\n";
    for (code, meaning) in extras.exit {
        let _ = writeln!(text, "| {code} | {} |", cell(meaning));
    }
    text
}

/// The headings of a command's flags in their order; `None` for flags without one.
fn headings(command: &Command) -> Vec<Option<&str>> {
    let mut headings = Vec::new();
    for argument in command.get_arguments() {
        let heading = argument.get_help_heading();
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings
}

/// The row of a flag.
fn row(argument: &Arg) -> String {
    let short = argument
        .get_short()
        .map(|short| format!("`-{short}`, "))
        .unwrap_or_default();
    let names = argument.get_value_names().unwrap_or_default();
    let takes_value = argument.get_action().takes_values();
    let value = names
        .first()
        .filter(|_| takes_value)
        .map(|name| format!(" {name}"))
        .unwrap_or_default();
    let flag = match argument.get_long() {
        Some(flag) => format!("{short}`--{flag}{}`", value.replace('|', "\\|")),
        None => format!("`{}`", value.trim().replace('|', "\\|")),
    };
    let variable = argument
        .get_env()
        .map(|name| format!("`{}`", name.to_string_lossy()))
        .unwrap_or_default();
    let help = argument.get_long_help().or(argument.get_help());
    let help = help.map(StyledStr::to_string).unwrap_or_default();
    let (help, stated) = split_default(&help);
    let values = argument.get_default_values();
    let default = match (stated, values.first()) {
        (Some(stated), _) => stated,
        (None, Some(value)) if takes_value && !argument.is_hide_default_value_set() => {
            format!("`{}`", value.to_string_lossy())
        }
        (None, _) if !takes_value => "off".to_owned(),
        (None, _) => "none".to_owned(),
    };
    let mut meaning = sentences(&help);
    let values = argument.get_possible_values();
    if takes_value && !values.is_empty() && argument.get_id() != "shell" {
        let values = values.iter().map(|value| {
            let help = value.get_help().map(StyledStr::to_string).unwrap_or_default();
            format!("`{}`: {help}", value.get_name())
        });
        let values: Vec<String> = values.collect();
        let _ = write!(meaning, " {}.", values.join("; "));
    }
    format!("| {flag} | {variable} | {} | {} |\n", cell(&default), cell(&meaning))
}

/// The help without `[default: …]`, and what that says.
fn split_default(help: &str) -> (String, Option<String>) {
    let unwrapped = help
        .replace("\n\n", "\u{0}")
        .replace('\n', " ")
        .replace('\u{0}', "\n\n");
    let Some((before, rest)) = unwrapped.split_once(" [default: ") else {
        return (unwrapped, None);
    };
    match rest.split_once(']') {
        Some((default, after)) => (format!("{before}{after}"), Some(default.to_owned())),
        None => (unwrapped.clone(), None),
    }
}

/// Paragraphs as sentences of one line.
fn sentences(help: &str) -> String {
    let paragraphs = help
        .split("\n\n")
        .map(str::trim)
        .filter(|paragraph| !paragraph.is_empty());
    let ended = paragraphs.map(|paragraph| match paragraph.ends_with('.') {
        true => paragraph.to_owned(),
        false => format!("{paragraph}."),
    });
    ended.collect::<Vec<_>>().join(" ")
}

/// Text in a cell of a table. Names between angle brackets would be HTML, and a star emphasis.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace(" * ", " `*` ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_taken_out_of_the_help() {
        let (help, default) = split_default("Threads [default: one for\neach core]\n\nLower it.");
        assert_eq!(
            (help.as_str(), default.as_deref()),
            ("Threads\n\nLower it.", Some("one for each core"))
        );
        assert_eq!(sentences(&help), "Threads. Lower it.");
    }
}
