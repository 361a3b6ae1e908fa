//! The documents show what the program does: each `console` block of README.md and docs/*.md is run, and its output
//! compared.
//!
//! A block has commands after `$ ` and their output below. The commands run in a shell, against a server with the demo
//! model in place of the one on port 8000, in a folder with a model `my-model` and the file `texts.txt`. Words and
//! order must be the same, fractions to three places; line breaks and indentation may differ. Lines about the machine
//! are not compared, nor are those in place of which a document has the line `…`.

mod common;

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(unix)]
mod unix {
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use crate::common::fixtures::{golden, golden_copy, tls};
    use crate::common::harness::{self, Requirement};
    use crate::common::machine::nothing;
    use crate::common::server::Server;

    harness::main! {
        curl() => [the_readme_shows_what_happens, the_other_documents_show_what_happens,
                   the_last_line_of_the_start_up_block_works_as_it_is],
        nothing() => [the_readme_is_short, fractions_are_compared_to_three_places],
    }

    fn curl() -> Requirement {
        match Command::new("curl").arg("--version").output() {
            Ok(_) => Ok(()),
            Err(_) => Err("no curl".to_owned()),
        }
    }

    fn repository() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
    }

    /// A command of a document, and the output below it.
    struct Example {
        place: String,
        command: String,
        output: String,
    }

    /// The commands of the `console` blocks of a document. A block in a list is indented.
    fn examples(path: &Path) -> Vec<Example> {
        let mut examples: Vec<Example> = Vec::new();
        let mut indentation: Option<usize> = None;
        for (number, line) in std::fs::read_to_string(path).unwrap().lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            if line.trim_start().starts_with("```") {
                let begins = line.trim_start() == "```console";
                indentation = begins.then(|| line.len() - line.trim_start().len());
                continue;
            }
            let Some(line) = indentation.map(|indentation| line.get(indentation..).unwrap_or_default()) else {
                continue;
            };
            if let Some(command) = line.strip_prefix("$ ") {
                examples.push(Example {
                    place,
                    command: command.to_owned(),
                    output: String::new(),
                });
                continue;
            }
            let example = examples
                .last_mut()
                .unwrap_or_else(|| panic!("{place}: output without a command"));
            match example.output.is_empty() && example.command.ends_with('\\') {
                true => example.command += &format!("\n{line}"),
                false => example.output += &format!("{line}\n"),
            }
        }
        examples
    }

    /// Runs the examples of a document, and fails with all that differ.
    fn run_examples(path: &Path) -> usize {
        let examples = examples(path);
        if examples.is_empty() {
            return 0;
        }
        let server = Server::start(&[]);
        let folder = tempfile::tempdir().unwrap();
        let model = golden_copy("uncased-tied");
        std::os::unix::fs::symlink(model.path(), folder.path().join("my-model")).unwrap();
        let texts = "The children [MASK] playing.\nNo mask here.\nShe [MASK] born in London.\n";
        std::fs::write(folder.path().join("texts.txt"), texts).unwrap();
        std::fs::write(folder.path().join(".curlrc"), "silent\nshow-error\nmax-time = 60\n").unwrap();
        let binaries = Path::new(env!("CARGO_BIN_EXE_cloze")).parent().unwrap().to_owned();
        let path = std::env::join_paths(
            [binaries]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let path = path.unwrap();
        let mut faults = Vec::new();
        for Example { place, command, output } in &examples {
            let run = command
                .replace("localhost:8000", &server.address)
                .replace("127.0.0.1:8000", &server.address);
            let mut shell = Command::new("sh");
            shell
                .current_dir(folder.path())
                .env("PATH", &path)
                .env("CURL_HOME", folder.path())
                .stdin(Stdio::null());
            let found = match output.contains("  address  ") {
                // A server does not end.
                true => Server::spawn(
                    shell
                        .args(["-c", &format!("exec {run}")])
                        .env("CLOZE_PORT", "0")
                        .stderr(Stdio::null()),
                )
                .banner
                .clone(),
                false => {
                    let output = shell.args(["-c", &format!("{run} 2>&1")]).output().unwrap();
                    String::from_utf8(output.stdout).unwrap()
                }
            };
            let found = found.replace(&server.address, "localhost:8000");
            if !output.is_empty() && !is_same(output, &found) {
                faults.push(format!(
                    "{place}: $ {command}\n--- shown\n{output}\n--- found\n{found}\n"
                ));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        examples.len()
    }

    fn the_readme_shows_what_happens() {
        assert!(run_examples(&repository().join("README.md")) >= 5);
    }

    fn the_other_documents_show_what_happens() {
        let documents = std::fs::read_dir(repository().join("docs")).unwrap();
        let documents = documents.map(|entry| entry.unwrap().path());
        let documents = documents.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let commands: usize = documents.map(|path| run_examples(&path)).sum();
        assert!(commands >= 10, "{commands}");
    }

    fn the_readme_is_short() {
        let lines = std::fs::read_to_string(repository().join("README.md"))
            .unwrap()
            .lines()
            .count();
        assert!(lines <= 200, "README.md has {lines} lines; docs/ has the rest");
    }

    fn fractions_are_compared_to_three_places() {
        for (shown, found, expected) in [
            ("[{\"a\":0.5702,\n  \"b\":18}]", "[{\"a\":0.57024,\"b\":18}]", true),
            ("0.571", "0.573", false),
            ("1.5e-8 a", "2.5e-9 a", true),
            ("token 18", "token 19", false),
            ("was", "is", false),
            ("  memory   1 MiB\n", "  memory   7 MiB\n", true),
            ("at http://127.0.0.1:8000", "at http://127.0.0.1:41234", true),
            ("a\n…\nd 0.5\n", "a\nb\nc\nd 0.5001\n", true),
            ("…\nd\n", "d\n", true),
            ("a\n…\nd\n", "a\nd\ne\n", false),
            ("a\n…\na\n", "a\n", false),
        ] {
            assert_eq!(is_same(shown, found), expected, "{shown} {found}");
        }
    }

    /// True if two outputs differ only in line breaks, small fractions and facts about the machine.
    fn is_same(shown: &str, found: &str) -> bool {
        if let Some((begin, end)) = shown.split_once("…\n") {
            let found: Vec<&str> = found.lines().collect();
            let (first, last) = (begin.lines().count(), end.lines().count());
            return first + last <= found.len()
                && is_same(begin, &found[..first].join("\n"))
                && is_same(end, &found[found.len() - last..].join("\n"));
        }
        let (shown, found) = (parts(&joined(shown)), parts(&joined(found)));
        shown.len() == found.len() && shown.iter().zip(&found).all(|(a, b)| is_same_part(a, b))
    }

    fn joined(text: &str) -> String {
        let of_machine = |line: &&str| ["backend ", "memory "].iter().any(|word| line.starts_with(word));
        text.lines()
            .map(str::trim)
            .filter(|line| !of_machine(line))
            .map(without_port)
            .collect()
    }

    /// The port of an address in a start-up block.
    fn without_port(line: &str) -> String {
        let mut parts = line.split("127.0.0.1:");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text += "127.0.0.1:8000";
            text += part.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        text
    }

    /// Numbers, and the text between them.
    fn parts(text: &str) -> Vec<String> {
        let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
        let mut parts: Vec<String> = Vec::new();
        let mut is_number = false;
        let mut previous = ' ';
        for c in text.chars() {
            let exponent = is_number && (c == 'e' || (c == '-' && previous == 'e'));
            let goes_on = is_number == (is_of_number(c) || exponent) && !parts.is_empty();
            if !goes_on {
                parts.push(String::new());
                is_number = is_of_number(c);
            }
            parts.last_mut().expect("pushed").push(c);
            previous = c;
        }
        parts
    }

    fn is_same_part(shown: &str, found: &str) -> bool {
        let is_fraction = |part: &str| part.contains(['.', 'e']);
        match (shown.parse::<f64>(), found.parse::<f64>()) {
            (Ok(a), Ok(b)) if is_fraction(shown) || is_fraction(found) => (a - b).abs() <= 5e-4_f64.max(1e-3 * b.abs()),
            _ => shown == found,
        }
    }

    /// The last line of the start-up block, as a shell runs it.
    fn paste(banner: &str, key: Option<&str>, typed: &str) -> String {
        let line = banner
            .lines()
            .find_map(|line| line.strip_prefix("  try      "))
            .unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &line.replace("curl ", "curl -s --max-time 20 ")]);
        match key {
            Some(key) => shell.env("CLOZE_API_KEY", key),
            None => shell.env_remove("CLOZE_API_KEY"),
        };
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A shell that does not ask does not read.
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    fn the_last_line_of_the_start_up_block_works_as_it_is() {
        const KEY: &str = "key-of-a-test";
        let (certificate, key) = (tls("server.pem"), tls("server-key.pem"));
        let model = golden("uncased-tied");
        for flags in [
            &["--model", &model][..],
            &["--model", &model, "--host", "0.0.0.0"],
            &["--model", &model, "--tls-cert", &certificate, "--tls-key", &key],
            &["--model", &model, "--max-batch-tokens", "10"],
        ] {
            let server = Server::start(flags);
            let answer = paste(&server.banner, None, "");
            assert!(answer.contains("\"score\""), "{}: {answer}", server.banner);
        }
        let server = Server::start(&["--model", &model, "--api-key", KEY]);
        assert!(!server.banner.contains(KEY), "{}", server.banner);
        for (variable, typed) in [(Some(KEY), ""), (None, "key-of-a-test\n")] {
            let answer = paste(&server.banner, variable, typed);
            assert!(answer.contains("\"score\""), "{variable:?}: {answer}");
        }
        assert!(paste(&server.banner, None, "another\n").contains("unauthorized"));
    }
}
