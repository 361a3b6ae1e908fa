//! The binary on a GPU, and how it ends when the GPU fails. Tests that need an adapter are ignored where there is none.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cloze::lm::{BackendKind, Batch, Placement, PretrainedModel, Select, Sequence};
use common::fixtures::golden;
use common::harness;
use common::machine::{adapter, f16, failpoints, nothing, software_adapter};
use common::server::{Server, command};

harness::main! {
    nothing() => [
        an_unsupported_precision_is_refused_with_the_supported_ones,
        several_workers_on_a_gpu_are_refused,
        an_unknown_language_of_kernels_is_refused,
    ],
    adapter() => [
        a_pass_of_bert_has_few_launches,
        adapters_are_listed_with_their_properties,
        an_answer_does_not_wait_for_the_next_batch,
        an_idle_server_takes_no_processor_time,
        full_rows_of_a_large_batch_are_those_of_small_ones,
        no_request_compiles_a_kernel_after_warm_up,
        the_language_of_kernels_can_be_selected,
        weights_beyond_the_memory_are_refused_before_they_are_read,
    ],
    failpoints().and(adapter()) => [
        a_device_lost_between_lines_ends_predict_with_one_sentence,
        a_device_lost_during_loading_ends_the_start_with_one_sentence,
        a_hanging_device_ends_the_process_with_its_reason,
        a_lost_device_ends_the_process_with_its_reason,
        a_driver_that_refuses_spirv_gets_wgsl,
    ],
    failpoints().and(software_adapter()) => [exhausted_gpu_memory_ends_the_process_with_its_reason],
}

/// The reason of a start that failed, after checks: the exit code, and one line that begins with `cloze: `.
fn refused(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "it started");
    let reason: Vec<&str> = stderr.lines().filter(|line| line.starts_with("cloze: ")).collect();
    assert_eq!(reason.len(), 1, "{stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"),
        "{stderr}"
    );
    reason[0].to_owned()
}

/// Checks that a server that is about to end answers a health request with 503 or closes the connection.
fn assert_is_down(mut connection: TcpStream) {
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = String::new();
    let _ = connection.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let _ = connection.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "{answer}");
}

/// Starts the server, lets it answer once, then injects a fault into its device by writing the file `trigger`. Checks
/// that the next text is answered with 500 and that the process ends with `reason`; returns how long that answer took.
fn assert_ends(command: &mut Command, trigger: &Path, reason: &str) -> Duration {
    // A file: a pipe is not read before the end, and a full pipe would block the server.
    let log = trigger.with_file_name("log");
    let mut server = Server::spawn(command.stderr(std::fs::File::create(&log).unwrap()));
    assert_eq!(server.post("text/plain", "the [MASK] .").0, 200);
    let health = TcpStream::connect(&server.address).unwrap();
    std::fs::write(trigger, "").unwrap();
    let sent_at = Instant::now();
    let (status, body) = server.post("text/plain", "the [MASK] .");
    let took = sent_at.elapsed();
    assert_eq!(status, 500, "{body}");
    assert_is_down(health);
    assert_eq!(server.wait().code(), Some(1));
    let stderr = std::fs::read_to_string(&log).unwrap();
    let expected = format!("cloze: the model failed: {reason}");
    assert!(
        stderr.contains(&expected) && stderr.contains("; restart the server"),
        "{stderr}"
    );
    took
}

fn a_lost_device_ends_the_process_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("lose");
    let mut command = command(&[
        "--backend",
        "gpu",
        "--model",
        &golden("uncased-tied"),
        "--max-batch-tokens",
        "64",
    ]);
    command.env("CLOZE_TEST_LOSE_GPU", &trigger);
    assert_ends(&mut command, &trigger, "the GPU was lost");
}

fn a_hanging_device_ends_the_process_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("hang");
    let model = golden("uncased-tied");
    let mut command = command(&["--backend", "gpu", "--model", &model, "--max-batch-tokens", "64"]);
    // A software driver may take seconds beside other tests.
    command
        .args(["--batch-timeout-ms", "10000"])
        .env("CLOZE_TEST_HANG_GPU", &trigger);
    // It ends although its worker still waits.
    let reason = "a batch has not completed within 10 s; the device hangs";
    let took = assert_ends(&mut command, &trigger, reason);
    assert!(took >= Duration::from_secs(9), "{took:?}");
}

fn exhausted_gpu_memory_ends_the_process_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("exhaust");
    // A software driver allocates memory of the process, which the shell limits.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -v 16777216; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_cloze"),
        ])
        .args([
            "--port",
            "0",
            "--backend",
            "gpu",
            "--gpu-device",
            "0",
            "--max-batch-tokens",
            "64",
        ])
        .args(["--model", &golden("uncased-tied")])
        .env("CLOZE_TEST_EXHAUST_GPU", &trigger);
    assert_ends(&mut command, &trigger, "the GPU is out of memory");
}

fn a_device_lost_between_lines_ends_predict_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("lose");
    let mut predict = Command::new(env!("CARGO_BIN_EXE_cloze"))
        .args(["predict", "--backend", "gpu", "--max-batch-tokens", "64"])
        .args(["--model", &golden("uncased-tied")])
        .env("CLOZE_TEST_LOSE_GPU", &trigger)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = predict.stdin.take().unwrap();
    writeln!(lines, "the [MASK] .").unwrap();
    let mut answers = BufReader::new(predict.stdout.take().unwrap());
    let mut answer = String::new();
    answers.read_line(&mut answer).unwrap();
    assert!(answer.contains("score"), "{answer}");
    std::fs::write(&trigger, "").unwrap();
    writeln!(lines, "the [MASK] .").unwrap();
    drop(lines);
    let mut rest = String::new();
    answers.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest}");
    let output = predict.wait_with_output().unwrap();
    let reason = refused(&output, 1);
    assert!(reason.contains("the model failed: the GPU was lost"), "{reason}");
}

fn a_device_lost_during_loading_ends_the_start_with_one_sentence() {
    let mut command = command(&["--backend", "gpu", "--model", &golden("uncased-tied")]);
    // Any file that exists.
    command.env("CLOZE_TEST_LOSE_GPU", std::env::current_exe().unwrap());
    let reason = refused(&command.stderr(Stdio::piped()).output().unwrap(), 1);
    assert!(
        reason.contains("the model could not be put onto") && reason.contains("the GPU was lost"),
        "{reason}"
    );
}

fn weights_beyond_the_memory_are_refused_before_they_are_read() {
    // A config.json with the sizes of 400 GB of weights, without those weights.
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("uncased-tied")).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("config.json");
    let mut sizes: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    for (name, size) in [
        ("hidden_size", 4096),
        ("intermediate_size", 4096),
        ("num_hidden_layers", 1024),
    ] {
        sizes[name] = size.into();
    }
    std::fs::write(&config, sizes.to_string()).unwrap();
    let model = folder.path().to_str().unwrap();
    let mut command = command(&["--backend", "gpu", "--dtype", "f32", "--model", model]);
    let reason = refused(&command.stderr(Stdio::piped()).output().unwrap(), 1);
    assert!(
        reason.contains("the model's weights take 39") && reason.contains("--gpu-device"),
        "{reason}"
    );
}

fn several_workers_on_a_gpu_are_refused() {
    let mut command = command(&["--backend", "gpu", "--workers", "2"]);
    let reason = refused(&command.stderr(Stdio::piped()).output().unwrap(), 2);
    assert!(reason.contains("2 workers are for the CPU"), "{reason}");
}

fn an_unknown_language_of_kernels_is_refused() {
    let mut command = command(&["--backend", "gpu"]);
    command.env("CLOZE_GPU_LANGUAGE", "msl");
    let reason = refused(&command.stderr(Stdio::piped()).output().unwrap(), 2);
    assert!(reason.contains("CLOZE_GPU_LANGUAGE takes spirv or wgsl"), "{reason}");
}

/// A command for a small model whose kernels are in `language`.
fn in_language(language: &str) -> Command {
    let model = golden("uncased-tied");
    let mut command = command(&["--backend", "gpu", "--model", &model, "--warm-up", "short"]);
    command.env("CLOZE_GPU_LANGUAGE", language);
    command
}

/// The device of a server, in words.
fn device_of(server: &Server) -> String {
    let info: serde_json::Value = serde_json::from_str(&server.get("/info").1).unwrap();
    info["device"].as_str().unwrap().to_owned()
}

/// The reason why the driver or the build has no SPIR-V, if so.
fn missing_spirv() -> Option<String> {
    let predict = Command::new(env!("CARGO_BIN_EXE_cloze"))
        .args([
            "predict",
            "--backend",
            "gpu",
            "--warm-up",
            "short",
            "--model",
            &golden("uncased-tied"),
        ])
        .env("CLOZE_GPU_LANGUAGE", "spirv")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (!predict.status.success()).then(|| String::from_utf8(predict.stderr).unwrap())
}

fn the_language_of_kernels_can_be_selected() {
    let device = device_of(&Server::spawn(&mut in_language("wgsl")));
    assert!(device.contains("WGSL"), "{device}");
    match missing_spirv() {
        None => {
            let device = device_of(&Server::spawn(&mut in_language("spirv")));
            assert!(device.contains("SPIR-V"), "{device}");
        }
        Some(reason) => {
            let missing = match cfg!(feature = "vulkan") {
                true => "the driver lacks a feature that SPIR-V needs",
                false => "this build lacks the cargo feature vulkan",
            };
            assert!(reason.contains(missing), "{reason}");
        }
    }
}

fn a_driver_that_refuses_spirv_gets_wgsl() {
    let folder = tempfile::tempdir().unwrap();
    let (trigger, log) = (folder.path().join("refuse"), folder.path().join("log"));
    std::fs::write(&trigger, "").unwrap();
    let mut command = in_language("");
    command.env("CLOZE_TEST_REFUSE_SPIRV", &trigger);
    let server = Server::spawn(command.stderr(std::fs::File::create(&log).unwrap()));
    let device = device_of(&server);
    assert!(device.contains("WGSL"), "{device}");
    if missing_spirv().is_none() {
        let stderr = std::fs::read_to_string(&log).unwrap();
        assert!(
            stderr.contains("gave no device for SPIR-V: refused for a test"),
            "{stderr}"
        );
    }
}

fn an_unsupported_precision_is_refused_with_the_supported_ones() {
    for (backend, dtype, there_is) in [
        ("cpu", "f16", "f32, bf16 and int8"),
        ("gpu", "bf16", "f32 and f16"),
        ("gpu", "int8", "f32 and f16"),
    ] {
        let mut command = command(&["--backend", backend, "--dtype", dtype]);
        let reason = refused(&command.stderr(Stdio::piped()).output().unwrap(), 2);
        let expected = format!(
            "the {backend} backend cannot compute in {dtype}; it supports {there_is}; choose one of them with --dtype"
        );
        assert!(reason.contains(&expected), "{reason}");
    }
}

fn adapters_are_listed_with_their_properties() {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_cloze")));
    let output = command.arg("devices").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let (_, gpus) = shown.split_once("\ngpu  ").expect("an adapter");
    for part in [
        "type ",
        "driver ",
        "f16 ",
        "matrix ",
        "memory ",
        "buffers ",
        "--gpu-device 0",
    ] {
        assert!(gpus.contains(part), "{part} is not in {shown}");
    }
}

/// Processor time of a process in clock ticks of 10 ms.
fn processor_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name of the process ends with the last bracket; its user and system times are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn an_idle_server_takes_no_processor_time() {
    let model = golden("uncased-tied");
    let server = Server::start(&["--backend", "gpu", "--model", &model, "--warm-up", "short"]);
    for _ in 0..2 {
        assert_eq!(server.post("text/plain", "the [MASK] .").0, 200);
        std::thread::sleep(Duration::from_secs(1));
        let before = processor_ticks(server.child.id());
        std::thread::sleep(Duration::from_secs(4));
        let ticks = processor_ticks(server.child.id()) - before;
        // Half a per cent of a core; the device's thread alone would take 8.
        assert!(ticks <= 2, "{ticks} ticks in 4 seconds");
    }
}

fn an_answer_does_not_wait_for_the_next_batch() {
    // The demo model: its batches take long enough on a software driver.
    let server = Server::start(&["--backend", "gpu", "--warm-up", "short", "--max-batch-size", "1"]);
    let (short, long) = ("the [MASK] .".to_owned(), "the ".repeat(200) + "[MASK] .");
    let post = |text: &str| {
        let sent_at = Instant::now();
        assert_eq!(server.post("text/plain", text).0, 200);
        (sent_at.elapsed(), Instant::now())
    };
    // Compiles the kernels of both; then the long one alone.
    post(&short);
    post(&long);
    let (alone, _) = post(&long);
    let (first, second) = std::thread::scope(|scope| {
        let running = scope.spawn(|| post(&long));
        // Both wait while that one is computed.
        std::thread::sleep(alone / 4);
        let first = scope.spawn(|| post(&short).1);
        std::thread::sleep(alone / 8);
        let second = scope.spawn(|| post(&long).1);
        running.join().unwrap();
        (first.join().unwrap(), second.join().unwrap())
    });
    let later = second.saturating_duration_since(first);
    assert!(later > alone / 4, "{later:?} later, with {alone:?} alone");
}

/// The number of lines of CubeCL's log that `matches` accepts. Another thread writes the log, so this waits until it no
/// longer grows.
fn lines(log: &Path, matches: impl Fn(&str) -> bool) -> usize {
    let mut before = None;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let count = text.lines().filter(|line| matches(line)).count();
        if before == Some(count) {
            return count;
        }
        before = Some(count);
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The number of kernels that CubeCL compiled.
fn compiled(log: &Path) -> usize {
    lines(log, |line| line.contains("[START_KERNEL_COMPILATION]"))
}

fn a_pass_of_bert_has_few_launches() {
    let folder = tempfile::tempdir().unwrap();
    let layers = 2;
    // One for the embeddings, seven for a layer, one more for the last layer, four for the head: 90 for 12 layers.
    let launches_max = 1 + 7 * layers + 1 + 4;
    let dtypes: Vec<&str> = match f16().is_ok() {
        true => vec!["f32", "f16"],
        false => vec!["f32"],
    };
    for dtype in dtypes {
        let log = folder.path().join(dtype);
        let model = golden("uncased-tied");
        let mut command = command(&[
            "--backend",
            "gpu",
            "--model",
            &model,
            "--dtype",
            dtype,
            "--warm-up",
            "short",
        ]);
        command.env("CUBECL_DEBUG_LOG", &log);
        command.env("CUBECL_DEBUG_OPTION", "profile-medium");
        let server = Server::spawn(&mut command);
        // A line for each launch: its time, and the name of the kernel.
        let is_launch =
            |line: &str| line.starts_with("| ") && line[2..].starts_with(|first: char| first.is_ascii_digit());
        let launches = || {
            let before = lines(&log, is_launch);
            assert_eq!(server.post("text/plain", "the [MASK] .").0, 200);
            lines(&log, is_launch) - before
        };
        // Compiles what the warm-up did not.
        launches();
        assert_eq!(launches(), launches_max, "{dtype}");
    }
}

/// Requests that make batches of many sizes, with few and many masks, with every kind of parameter.
fn requests() -> Vec<serde_json::Value> {
    let text = |words: usize, masks: usize| {
        let words = (0..words).map(|index| if index < masks { "[MASK]" } else { "the" });
        words.collect::<Vec<_>>().join(" ")
    };
    let mut requests = Vec::new();
    for (words, masks) in [
        (1, 1),
        (5, 2),
        (14, 1),
        (15, 3),
        (20, 20),
        (31, 1),
        (62, 5),
        (100, 90),
        (120, 1),
    ] {
        requests.push(serde_json::json!({ "inputs": text(words, masks) }));
    }
    for (texts, words) in [(2, 3), (3, 30), (7, 9), (20, 8), (2, 100), (64, 2)] {
        requests.push(serde_json::json!({ "inputs": vec![text(words, 1); texts] }));
    }
    for parameters in [
        serde_json::json!({ "top_k": 1 }),
        serde_json::json!({ "top_k": 64 }),
        serde_json::json!({ "top_k": 511 }),
        serde_json::json!({ "top_k": 65 }),
        serde_json::json!({ "targets": ["the"] }),
        serde_json::json!({ "targets": ["the", "of", "a"], "top_k": 2 }),
    ] {
        for (words, masks) in [(9, 1), (9, 2), (90, 80)] {
            requests.push(serde_json::json!({ "inputs": text(words, masks), "parameters": parameters }));
        }
    }
    requests
}

fn no_request_compiles_a_kernel_after_warm_up() {
    let folder = tempfile::tempdir().unwrap();
    // The short warm-up leaves out most sizes: it shows that the count finds late compilations.
    for (warm_up, leaves_something) in [("full", false), ("short", true)] {
        let log = folder.path().join(warm_up);
        let model = golden("uncased-tied");
        let arguments = ["--backend", "gpu", "--model", &model, "--max-batch-tokens", "256"];
        let mut command = command(&arguments);
        // A software driver is slow beside other tests.
        command.args(["--warm-up", warm_up, "--request-timeout-ms", "600000"]);
        command.env("CUBECL_DEBUG_LOG", &log);
        let server = Server::spawn(&mut command);
        let at_start = compiled(&log);
        assert!(at_start > 0, "CubeCL says nothing");
        for request in requests() {
            let (status, body) = server.post("application/json", &request.to_string());
            assert_eq!(status, 200, "{request}: {body}");
        }
        let later = compiled(&log) - at_start;
        assert_eq!(later > 0, leaves_something, "{warm_up}: {later} after {at_start}");
    }
}

fn full_rows_of_a_large_batch_are_those_of_small_ones() {
    let mut checkpoint = PretrainedModel::open(Path::new(&golden("uncased-tied"))).unwrap();
    let mut loaded = checkpoint.load(&Placement::new(BackendKind::Gpu, 1)).unwrap();
    let mut scores = |texts: std::ops::Range<u32>| {
        let mut batch = Batch::default();
        for text in texts {
            let token_ids: Vec<u32> = (0..7).map(|i| (text * 31 + i * 7) % 100).collect();
            // More than the device finds, so that whole rows are read.
            batch.push(&Sequence::new(token_ids, [1, 4], Select::TopK(90)));
        }
        loaded.workers[0].predict(batch).unwrap()
    };
    // 80 rows, more than are read at once.
    let large = scores(0..40);
    let small = (0..40).step_by(10).flat_map(|first| scores(first..first + 10));
    for (large, small) in large.into_iter().flatten().zip(small.flatten()) {
        assert_eq!(large.len(), 90);
        let small: std::collections::BTreeMap<u32, f32> = small.iter().map(|s| (s.token, s.log_prob)).collect();
        for score in &large[..80] {
            assert!((score.log_prob - small[&score.token]).abs() < 1e-4, "{score:?}");
        }
    }
}
