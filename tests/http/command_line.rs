//! Flags, environment variables, the start-up block, `cloze health`, completions and manual pages.

use std::process::{Command, Output, Stdio};

use crate::common::fixtures::{golden, tls};
use crate::common::server::{Server, command};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloze"));
    command.args(arguments).envs(variables.iter().copied());
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

/// Variables that keep a process from any hub.
const OFFLINE: [(&str, &str); 2] = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "/does/not/exist")];

#[test]
fn an_empty_variable_counts_as_unset() {
    let names = [
        "CLOZE_MODEL",
        "CLOZE_REVISION",
        "CLOZE_BACKEND",
        "CLOZE_GPU_DEVICE",
        "CLOZE_DTYPE",
        "CLOZE_THREADS",
        "CLOZE_HOST",
        "CLOZE_API_KEY",
        "CLOZE_METRICS_WITHOUT_KEY",
        "CLOZE_TLS_CERT",
        "CLOZE_CORS_ORIGIN",
        "CLOZE_ALLOWED_HOST",
        "CLOZE_LOG",
        "CLOZE_LOG_FORMAT",
        "CLOZE_BATCH_TIMEOUT_MS",
        "CLOZE_CPU_FEATURES",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let mut command = command(&[]);
    let server = Server::spawn(command.envs(names.map(|name| (name, ""))));
    assert!(server.banner.contains("demo"), "{}", server.banner);
    assert_eq!(server.get("/info").0, 200);
    // Kubernetes puts the address of a Service named cloze into this variable.
    let output = run(
        &["health", "--timeout-ms", "100"],
        &[("CLOZE_PORT", "tcp://10.0.0.1:9")],
    );
    assert!(text(&output.stderr).contains("http://127.0.0.1:8000/"), "{output:?}");
}

#[test]
fn an_error_names_the_variable_that_a_value_came_from() {
    for (arguments, variable, value, says) in [
        (&[][..], "CLOZE_PORT", "abc", "write a whole number from 0 to 65535"),
        (&[], "CLOZE_THREADS", "0", "write a whole number from 1 to 1024"),
        (&["health"], "CLOZE_PORT", "0", "write a whole number from 1 to 65535"),
        (
            &["predict"],
            "CLOZE_MAX_BATCH_TOKENS",
            "-1",
            "write a whole number from 1 to 1048576",
        ),
        (&[], "CLOZE_BACKEND", "tpu", "possible values: cpu, gpu"),
        (
            &[],
            "CLOZE_METRICS_WITHOUT_KEY",
            "perhaps",
            "write 1, true, yes or on, or 0, false, no or off",
        ),
        (&[], "CLOZE_GPU_DEVICE", "0", "CLOZE_GPU_DEVICE needs --backend gpu"),
        (&[], "CLOZE_TLS_KEY", "key.pem", "CLOZE_TLS_KEY needs --tls-cert"),
        (&["inspect"], "CLOZE_REVISION", "main", "CLOZE_REVISION is for a model"),
        (&[], "CLOZE_LOG", "verbose", "CLOZE_LOG: \"verbose\" is not a level"),
        (
            &[],
            "CLOZE_HOST",
            "localhost:80",
            "CLOZE_HOST: \"localhost:80\" is more than an address",
        ),
        (&[], "CLOZE_CORS_ORIGIN", "here", "CLOZE_CORS_ORIGIN \"here\""),
        (&[], "CLOZE_API_KEY", "two words", "CLOZE_API_KEY: "),
    ] {
        let output = run(arguments, &[(variable, value)]);
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains(says),
            "{variable}={value}: {error}"
        );
        assert!(error.contains(variable), "{variable}={value}: {error}");
        let flag = format!(
            "--{}",
            variable.trim_start_matches("CLOZE_").to_lowercase().replace('_', "-")
        );
        let first = error.lines().next().unwrap();
        assert!(!first.contains(&flag), "{variable}={value}: {error}");
    }
    // The flag has priority, so that its value is the one that is wrong.
    let output = run(&["--port", "x"], &[("CLOZE_PORT", "y")]);
    let error = text(&output.stderr);
    assert!(error.contains("'x' for '--port <PORT>'"), "{error}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_switch_takes_the_usual_words() {
    let model = golden("uncased-tied");
    for (value, status) in [("1", 200), ("on", 200), ("YES", 200), ("0", 401), ("off", 401)] {
        let mut command = command(&["--model", &model, "--api-key", "key-of-a-test"]);
        let server = Server::spawn(command.env("CLOZE_METRICS_WITHOUT_KEY", value));
        assert_eq!(server.get("/metrics").0, status, "{value}");
    }
}

#[test]
fn flags_without_an_effect_are_refused() {
    for (arguments, says) in [
        (&["--gpu-device", "0"][..], "--gpu-device needs --backend gpu"),
        (&["predict", "--gpu-device", "0"], "--gpu-device needs --backend gpu"),
        (&["--revision", "main"], "name the model with --model"),
        (&["--tls-cert", "cert.pem"], "--tls-cert needs --tls-key"),
        (&["--log", "foo"], "\"foo\" is not a level"),
        (&["--host", "no-such-host.invalid"], "has no address"),
    ] {
        let output = run(arguments, &[]);
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains(says),
            "{arguments:?}: {error}"
        );
    }
}

/// Before anything is read or bound.
#[test]
fn values_that_are_not_valid_have_the_exit_code_2() {
    for arguments in [
        &["--log", "foo"][..],
        &["predict", "--log", "foo"],
        &["score", "--log", "foo"],
        &["sparse", "--log", "foo"],
        &["--api-key", "two words"],
        &["--cors-origin", "here"],
        &["--allowed-host", "http://a"],
        &["--served-model-name", "a/b"],
        &["--max-buffered-bytes", "1"],
        &["--tls-key", "key.pem"],
        &["--gpu-device", "0"],
        &["--threads", "0"],
        &["--host", "no-such-host.invalid"],
        &["health", "--url", "ftp://x"],
        &["health", "--url", "http://"],
    ] {
        let output = run(arguments, &[("CLOZE_MODEL", "/does/not/exist")]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let error = text(&output.stderr);
        let flag = arguments.iter().find(|argument| argument.starts_with("--")).unwrap();
        assert!(error.lines().next().unwrap().contains(flag), "{error}");
    }
}

#[test]
fn values_that_this_machine_cannot_use_have_the_exit_code_2() {
    for (arguments, variable, says) in [
        (&[][..], ("CLOZE_CPU_FEATURES", "foo"), "cloze: CLOZE_CPU_FEATURES: "),
        (
            &["predict"],
            ("CLOZE_CPU_FEATURES", "foo"),
            "cloze: CLOZE_CPU_FEATURES: ",
        ),
        (&["-d", "f16"], ("CLOZE_PORT", "0"), "choose one of them with --dtype"),
        (&["-t", "1", "--workers", "2"], ("CLOZE_PORT", "0"), "lower --workers"),
        (
            &["--max-input-tokens", "100", "--max-batch-tokens", "50"],
            ("CLOZE_PORT", "0"),
            "raise --max-batch-tokens",
        ),
    ] {
        let output = run(arguments, &[variable]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

#[test]
fn errors_say_where_the_model_is_given() {
    for (arguments, says) in [
        (&["./my-model"][..], "cloze --model ./my-model"),
        (&["-m", "rob", "predict", "f"], "cloze predict --model DIR|NAME"),
        (&["-m", "./nosuch"], "cloze: there is no folder ./nosuch"),
    ] {
        let output = run(arguments, &OFFLINE);
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains(says),
            "{arguments:?}: {error}"
        );
    }
    // A typo of a command is no model.
    let error = text(&run(&["predcit"], &[]).stderr);
    assert!(!error.contains("--model"), "{error}");
}

#[test]
fn a_mistake_in_the_name_of_a_command_makes_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let man = |name: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloze"));
        command.args(["man", name]).current_dir(folder.path()).output().unwrap()
    };
    let output = man("predcit");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("predcit is neither a command (serve, predict,"),
        "{error}"
    );
    assert!(!folder.path().join("predcit").exists());
    assert!(man("./pages").status.success());
    // It exists now.
    assert!(man("pages").status.success());
}

#[test]
fn a_mistake_in_the_name_of_a_folder_is_recognized() {
    for command in [&["--model", "my-finetuned-brt"][..], &["inspect", "my-finetuned-brt"]] {
        let output = run(command, &OFFLINE);
        let error = text(&output.stderr);
        assert!(
            error.contains("there is no local folder my-finetuned-brt, and "),
            "{error}"
        );
    }
    let output = run(&["inspect"], &[("CLOZE_MODEL", "/nonexistent")]);
    assert!(text(&output.stderr).contains("/nonexistent"), "{output:?}");
}

#[test]
fn a_server_listens_on_the_address_of_a_name() {
    let model = golden("uncased-tied");
    let server = Server::start(&[
        "-m",
        &model,
        "--host",
        "localhost",
        "-t",
        "1",
        "-d",
        "F32",
        "-b",
        "CPU",
        "-l",
        "warn",
    ]);
    assert_eq!(server.get("/health").0, 200);
    let port = server.address.rsplit(':').next().unwrap();
    for variable in ["localhost", "127.0.0.1", "0.0.0.0"] {
        let output = run(&["health", "-p", port], &[("CLOZE_HOST", variable)]);
        assert!(output.status.success(), "{variable}: {output:?}");
    }
}

#[test]
fn the_health_command_says_which_address_it_needs() {
    let model = golden("uncased-tied");
    let plain = Server::start(&["--model", &model]);
    let output = run(&["health", "--url", &plain.address], &[]);
    assert!(output.status.success(), "{output:?}");
    let (certificate, key) = (tls("server.pem"), tls("server-key.pem"));
    let secure = Server::start(&["--model", &model, "--tls-cert", &certificate, "--tls-key", &key]);
    for (url, says) in [
        (
            format!("http://{}", secure.address),
            format!("use --url https://{}", secure.address),
        ),
        (
            format!("https://{}", plain.address),
            format!("use --url http://{}", plain.address),
        ),
    ] {
        let output = run(&["health", "--url", &url], &[]);
        let error = text(&output.stderr);
        assert!(
            output.status.code() == Some(1) && error.contains(&says),
            "{url}: {error}"
        );
    }
}

#[test]
fn the_start_up_block_names_the_model_of_the_v2_protocol() {
    let server = Server::start(&["--model", &golden("uncased-tied"), "--served-model-name", "mine"]);
    let name = server
        .banner
        .lines()
        .find_map(|line| line.strip_prefix("  v2 name  "))
        .unwrap();
    assert_eq!(name, "mine");
    assert_eq!(server.get(&format!("/v2/models/{name}/ready")).0, 200);
    let page = format!("  page     http://{}/ in a browser", server.address);
    assert!(server.banner.contains(&page), "{}", server.banner);
}

#[test]
fn the_automatic_precision_agrees_with_f32() {
    let server = Server::start(&["--model", &golden("uncased-tied"), "--dtype", "AUTO"]);
    let (status, info) = server.get("/info");
    assert_eq!(status, 200);
    let agrees = ["f32", "bf16"].map(|name| info.contains(&format!("\"dtype\":\"{name}\"")));
    assert!(agrees.contains(&true), "{info}");
}

#[test]
fn help_has_groups() {
    let help = text(&run(&["--help"], &[]).stdout);
    let places = [
        "Model:",
        "Hardware:",
        "Batching:",
        "HTTP:",
        "Security:",
        "Logging:",
        "Examples:",
        "Exit codes:",
    ];
    let places = places.map(|group| {
        help.find(&format!("\n{group}\n"))
            .unwrap_or_else(|| panic!("{group}: {help}"))
    });
    assert!(places.is_sorted(), "{places:?}");
    for part in [
        "-m, --model <DIR|NAME>",
        "[env: CLOZE_MODEL]",
        "-p, --port <PORT>",
        "CLOZE_CPU_FEATURES",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    // Help does not depend on the environment.
    let with_variables = text(&run(&["--help"], &[("CLOZE_MODEL", "x"), ("CLOZE_PORT", "")]).stdout);
    assert_eq!(help, with_variables);
}

#[test]
fn manual_pages_have_all_sections() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["man", folder.path().to_str().unwrap()], &[]);
    assert!(output.status.success(), "{output:?}");
    for name in ["cloze", "cloze-serve", "cloze-predict"] {
        let page = std::fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
        for part in [
            ".SH SYNOPSIS",
            ".SH HARDWARE",
            ".SH ENVIRONMENT",
            "CLOZE_MODEL",
            "HF_TOKEN",
            ".SH \"EXIT STATUS\"",
            ".SH FILES",
            ".SH EXAMPLES",
        ] {
            let plain = part.replace('"', "");
            assert!(
                page.contains(part) || page.contains(&plain),
                "{name}: {part} is not in {page}"
            );
        }
        assert!(
            !page.contains("[\\fB\\-\\-model\\fR]"),
            "{name}: flags without values in the synopsis"
        );
    }
    assert_eq!(
        text(&run(&["man"], &[]).stdout).lines().next(),
        text(&std::fs::read(folder.path().join("cloze.1")).unwrap())
            .lines()
            .next()
    );
}

#[test]
fn the_reference_of_flags_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let written = std::fs::read_to_string(path).unwrap();
    let generated = text(&run(&["man", "--markdown"], &[]).stdout);
    assert!(
        generated == written,
        "docs/configuration.md is not current; write it with: cargo run -- man --markdown > docs/configuration.md"
    );
}
