//! The definitions of the command line as a reference: help, manual pages, and `docs/configuration.md`.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory};

use super::Arguments;

/// Content of a manual page beside the flags.
struct Extras {
    /// Commands and their purpose.
    examples: &'static [(&'static str, &'static str)],
    exit: &'static [(&'static str, &'static str)],
}

const SERVE: Extras = Extras {
    examples: &[
        ("cloze", "serve the demo model at http://127.0.0.1:8000"),
        (
            "cloze -m google-bert/bert-base-uncased",
            "serve a model of the Hugging Face hub",
        ),
        (
            "cloze -m ./my-model -d bf16",
            "serve a folder that save_pretrained wrote, in bf16",
        ),
        (
            "CLOZE_API_KEY=secret cloze --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
            "serve HTTPS to other machines, behind a key",
        ),
    ],
    exit: &[
        ("0", "stopped by SIGTERM or Ctrl-C, accepted requests answered"),
        ("1", "the start failed, or the model or its device failed"),
        ("2", "flags or variables that are not valid"),
        ("130", "a second signal ended the process at once"),
    ],
};
const LINES: &[(&str, &str)] = &[
    ("0", "every line has an answer"),
    ("1", "the command could not start or go on"),
    ("2", "flags or variables that are not valid"),
    ("3", "some lines have an error in place of an answer"),
    ("130", "Ctrl-C"),
];
const PREDICT: Extras = Extras {
    examples: &[
        ("cloze predict texts.txt > answers.jsonl", "answer each line of a file"),
        (
            "cloze predict -k 1 --targets is,are texts.txt",
            "the better of two words for each mask",
        ),
        (
            "generate | cloze predict --format json",
            "requests as JSON from another program",
        ),
    ],
    exit: LINES,
};
const SCORE: Extras = Extras {
    examples: &[(
        "cloze score --per-token texts.txt",
        "scores of the texts and of their tokens",
    )],
    exit: LINES,
};
const SPARSE: Extras = Extras {
    examples: &[(
        "cloze sparse -m naver/splade-v3 texts.txt",
        "a sparse vector for each line",
    )],
    exit: LINES,
};
const HEALTH: Extras = Extras {
    examples: &[
        (
            "cloze health",
            "check the server on port 8000, or CLOZE_PORT, of this machine",
        ),
        (
            "cloze health --url https://cloze.example.org:8000",
            "check another server",
        ),
    ],
    exit: &[
        ("0", "ready"),
        ("1", "not ready, or no response"),
        ("2", "flags or variables that are not valid"),
    ],
};
const INSPECT: Extras = Extras {
    examples: &[
        ("cloze inspect ./my-model", "check a folder before it is served"),
        (
            "cloze inspect --json google-bert/bert-base-uncased",
            "describe a model of the hub as JSON",
        ),
    ],
    exit: &[
        ("0", "Cloze serves the model"),
        ("1", "the model has errors, which are listed, or cannot be read"),
        ("2", "flags or variables that are not valid"),
    ],
};
const DEVICES: Extras = Extras {
    examples: &[("cloze devices", "list the CPU and the GPUs")],
    exit: &[("0", "listed"), ("1", "standard output cannot be written")],
};
const COMPLETIONS: Extras = Extras {
    examples: &[
        (
            "cloze completions bash > ~/.local/share/bash-completion/completions/cloze",
            "install completions for bash",
        ),
        (
            "cloze completions fish > ~/.config/fish/completions/cloze.fish",
            "install completions for fish",
        ),
    ],
    exit: &[
        ("0", "printed"),
        ("1", "standard output cannot be written"),
        ("2", "no such shell"),
    ],
};
const MAN: Extras = Extras {
    examples: &[
        ("cloze man | man -l -", "show the manual page"),
        (
            "cloze man /usr/local/share/man/man1",
            "install the pages of all commands",
        ),
        (
            "cloze man --markdown > docs/configuration.md",
            "write the reference of flags and variables",
        ),
    ],
    exit: &[("0", "written"), ("1", "the pages cannot be written")],
};

/// Variables that no flag has.
const VARIABLES: [(&str, &str); 13] = [
    (
        "CLOZE_CPU_FEATURES",
        "A lesser instruction set of the CPU: avx512_bf16, avx512_vnni, avx512, avx2 or portable",
    ),
    (
        "CLOZE_GPU_CACHE",
        "Folder for tuned GPU kernels, in builds with autotune [default: cloze/gpu in the user's cache folder]",
    ),
    ("HF_HOME", "Folder of the hub's tools [default: ~/.cache/huggingface]"),
    ("HF_HUB_CACHE", "Folder for downloaded models [default: hub in HF_HOME]"),
    (
        "HF_TOKEN, HF_TOKEN_PATH",
        "Access token for gated and private models, or the file that holds it [default: token in HF_HOME]",
    ),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1: send no token"),
    (
        "HF_ENDPOINT",
        "Address of another hub, such as a mirror [default: https://huggingface.co]",
    ),
    (
        "HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE",
        "1: open no connection to the hub",
    ),
    (
        "HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT",
        "Seconds to wait for the head of a response, and for the next bytes of a download [default: 30]",
    ),
    (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "1: a log line in place of a progress bar for each download",
    ),
    ("HTTPS_PROXY, NO_PROXY", "Proxy for downloads, and hosts that need none"),
    (
        "SSL_CERT_FILE",
        "Certificates to trust for downloads and traces [default: Mozilla's]",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Collector of traces, in builds with otel; the other variables of OpenTelemetry's SDKs apply",
    ),
];

const FILES: [(&str, &str); 3] = [
    (
        "~/.cache/huggingface/hub",
        "Downloaded models, shared with all tools of the hub",
    ),
    ("~/.cache/huggingface/token", "Access token that `hf auth login` wrote"),
    ("~/.cache/cloze/gpu", "Tuned GPU kernels"),
];

fn extras(command: &str) -> Extras {
    match command {
        "predict" => PREDICT,
        "score" => SCORE,
        "sparse" => SPARSE,
        "health" => HEALTH,
        "inspect" => INSPECT,
        "devices" => DEVICES,
        "completions" => COMPLETIONS,
        "man" => MAN,
        _ => SERVE,
    }
}

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
    command
        .after_long_help(text)
        // A key would be shown, and help would differ between machines.
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(with_help)
}

/// The manual page of a command that was built.
pub fn manual_page(command: &Command) -> std::io::Result<Vec<u8>> {
    let extras = extras(command.get_name());
    let usage = command.clone().render_usage().to_string();
    // The synopsis of the generator has all flags without their values.
    let command = command
        .clone()
        .override_usage(usage.trim_start_matches("Usage:").trim().to_owned())
        .after_long_help(None::<&'static str>);
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let flags = variables_of(&command);
    let flags = flags.iter().map(|(variable, flag)| (variable.as_str(), flag.as_str()));
    let opens_models = command.get_arguments().any(|each| each.get_id() == "model");
    let variables = flags.chain(VARIABLES.into_iter().filter(|_| opens_models));
    section(&mut page, "ENVIRONMENT", variables);
    section(&mut page, "EXIT STATUS", extras.exit.iter().copied());
    section(&mut page, "FILES", FILES.into_iter().filter(|_| opens_models));
    section(&mut page, "EXAMPLES", extras.examples.iter().copied());
    section(&mut page, "SEE ALSO", [("cloze(1)", "All commands")].into_iter());
    Ok(page)
}

fn section<'a>(page: &mut Vec<u8>, title: &str, rows: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut text = String::new();
    for (left, right) in rows {
        let _ = write!(text, ".TP\n\\fB{}\\fR\n{}\n", roff(left), roff(right));
    }
    if !text.is_empty() {
        page.extend_from_slice(format!(".SH {title}\n{text}").as_bytes());
    }
}

/// Text for a manual page. A line that begins with a dot would be a command.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// The variables of a command, each with the flag that it sets.
fn variables_of(command: &Command) -> Vec<(String, String)> {
    let row = |argument: &Arg| {
        let variable = argument.get_env()?.to_string_lossy().into_owned();
        let flag = match argument.get_long() {
            Some(flag) => format!("Sets --{flag}. An empty value counts as unset"),
            None => "Sets the model. An empty value counts as unset".to_owned(),
        };
        Some((variable, flag))
    };
    command.get_arguments().filter_map(row).collect()
}

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

/// `docs/configuration.md`.
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

    #[test]
    fn defaults_are_taken_out_of_the_help() {
        let (help, default) = split_default("Threads [default: one for\neach core]\n\nLower it.");
        assert_eq!(
            (help.as_str(), default.as_deref()),
            ("Threads\n\nLower it.", Some("one for each core"))
        );
        assert_eq!(sentences(&help), "Threads. Lower it.");
    }

    #[test]
    fn a_manual_page_escapes_its_text() {
        assert_eq!(roff(".dot -f \\n"), "\\&.dot \\-f \\en");
    }
}
