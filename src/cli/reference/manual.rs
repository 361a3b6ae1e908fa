//! Manual pages.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::extras::{FILES, VARIABLES, extras};

/// The manual page of a command that was built.
pub fn manual_page(command: &Command) -> std::io::Result<Vec<u8>> {
    let extras = extras(command.get_name());
    let usage = command.clone().render_usage().to_string();
    // The synopsis of the generator has all flags without their values.
    let command = command
        .clone()
        .override_usage(usage.trim_start_matches("Usage:").trim().to_owned())
        .after_long_help(None::<&'static str>);
    let man = clap_mangen::Man::new(command.clone()).source(format!("cloze {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    if let Some(description) = description(&command) {
        let described = command.clone().long_about(description);
        clap_mangen::Man::new(described).render_description_section(&mut page)?;
    }
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
    let others = [("cloze(1)", "All commands")];
    section(
        &mut page,
        "SEE ALSO",
        others.into_iter().filter(|_| !command.has_subcommands()),
    );
    Ok(page)
}

/// The long help of a command after its first paragraph, which is in the section NAME.
fn description(command: &Command) -> Option<String> {
    let text = command.get_long_about()?.to_string();
    text.split_once("\n\n").map(|(_, rest)| rest.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_of_a_page_does_not_repeat_its_name() {
        let mut command = crate::cli::command();
        command.build();
        for (name, described) in [("predict", true), ("devices", false)] {
            let command = command.find_subcommand(name).unwrap();
            let page = String::from_utf8(manual_page(command).unwrap()).unwrap();
            let about = roff(&command.get_about().unwrap().to_string());
            assert_eq!(page.matches(&about).count(), 1, "{page}");
            assert_eq!(page.contains(".SH DESCRIPTION"), described, "{page}");
        }
    }

    #[test]
    fn a_manual_page_escapes_its_text() {
        assert_eq!(roff(".dot -f \\n"), "\\&.dot \\-f \\en");
    }
}
