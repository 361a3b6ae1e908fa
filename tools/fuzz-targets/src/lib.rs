//! Fuzz targets as plain functions. The package in `fuzz/` passes them to libFuzzer; `tests/corpus.rs` replays the
//! corpus through them without libFuzzer.
//!
//! A target takes any bytes. It must return: the input is refused with a sentence, or it is accepted and then works.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;

use cloze::api::{self, Format};
use cloze::checkpoint::Source;
use cloze::lm::inspect::Inspection;
use cloze::lm::{BackendKind, Batch, ModelError, Placement, PretrainedModel, Scores, Select, Sequence, TokenScore};
use cloze::server::parse_infer;
use cloze::tasks::TaskModel;
use cloze::tasks::fill_mask::{Answer, Parameters, Request};
use cloze::{Cloze, WarmUpExtent};
use tempfile::TempDir;

/// The server's default.
const TEXTS_MAX: usize = 512;
/// The server's default.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Lets panics of the tokenizer's library unwind, where libFuzzer would end the process at any panic: Cloze catches
/// them. One that Cloze does not catch is a finding all the same.
pub fn let_tokenizers_panic() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or("", |location| location.file());
        let theirs = ["/tokenizers-", "/spm_precompiled-", "/fancy-regex-", "/regex-"];
        if !theirs.iter().any(|name| place.contains(name)) {
            abort(panic);
        }
    }));
}

/// The body of `POST /`, as JSON, or as the text itself and undeclared where it is no JSON.
pub fn request(body: &[u8]) {
    match Format::Json.parse(body) {
        Ok(request) => answer(&request),
        Err(error) => {
            sentence(&error);
            for format in [Format::Text, Format::Undeclared] {
                if let Ok(request) = format.parse(body) {
                    answer(&request);
                }
            }
        }
    }
}

/// The body of an inference request of the v2 protocol. The first two bytes are the value of its header with the
/// JSON's length, little-endian; 65535 is no header.
pub fn infer(input: &[u8]) {
    let Some((length, body)) = input.split_first_chunk::<2>() else {
        return;
    };
    let json_length = Some(u16::from_le_bytes(*length)).filter(|&length| length != u16::MAX);
    match parse_infer(body, json_length.map(usize::from)) {
        Ok(request) => answer(&request),
        Err(error) => sentence(&error),
    }
}

/// `config.json`, beside the other files of a valid model.
pub fn config(file: &[u8]) {
    static MODEL: LazyLock<Folder> = LazyLock::new(Folder::tiny);
    MODEL.with(&[("config.json", file)]);
}

/// `tokenizer.json`, beside the other files of a valid model.
pub fn tokenizer(file: &[u8]) {
    static MODEL: LazyLock<Folder> = LazyLock::new(Folder::tiny);
    MODEL.with(&[("tokenizer.json", file)]);
}

/// `vocab.txt`, followed by a zero byte and `tokenizer_config.json`.
pub fn vocab(input: &[u8]) {
    static MODEL: LazyLock<Folder> = LazyLock::new(|| Folder::tiny().without("tokenizer.json"));
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let vocab = parts.next().unwrap_or_default();
    let settings = parts.next().unwrap_or(b"{}");
    MODEL.with(&[("vocab.txt", vocab), ("tokenizer_config.json", settings)]);
}

/// `model.safetensors`, or the index of several files where the input begins like one.
pub fn weights(file: &[u8]) {
    static SINGLE: LazyLock<Folder> = LazyLock::new(Folder::tiny);
    static SHARDED: LazyLock<Folder> = LazyLock::new(|| {
        let folder = Folder::tiny();
        let (whole, part) = ("model.safetensors", "part.safetensors");
        std::fs::rename(folder.0.path().join(whole), folder.0.path().join(part)).expect("the folder is ours");
        folder
    });
    match file.starts_with(b"{\"") {
        true => SHARDED.with(&[("model.safetensors.index.json", file)]),
        false => SINGLE.with(&[("model.safetensors", file)]),
    }
}

/// `pytorch_model.bin`, or the index of several files where the input begins like one.
pub fn pytorch(file: &[u8]) {
    static SINGLE: LazyLock<Folder> = LazyLock::new(|| Folder::tiny().without("model.safetensors"));
    static SHARDED: LazyLock<Folder> = LazyLock::new(|| {
        let folder = Folder::tiny().without("model.safetensors");
        let whole = repository().join("fuzz/corpus/pytorch/zip");
        std::fs::copy(whole, folder.0.path().join("part.bin")).expect("it is in the repository");
        folder
    });
    match file.starts_with(b"{\"") {
        true => SHARDED.with(&[("pytorch_model.bin.index.json", file)]),
        false => SINGLE.with(&[("pytorch_model.bin", file)]),
    }
}

/// Checks that an error is a sentence.
fn sentence(error: &api::Error) {
    let text = error.to_string();
    assert!(text.ends_with('.'), "not a sentence: {text}");
    // An error may quote the input, but not several times.
    assert!(text.len() < 2 * BODY_BYTES_MAX, "{} bytes of error", text.len());
}

/// Answers a parsed request, with made-up scores in place of a model's.
fn answer(request: &Request) {
    static CLOZE: LazyLock<Cloze> = LazyLock::new(|| {
        let folder = repository().join("tests/fixtures/golden/uncased-tied");
        let source = Source::folder(&folder).expect("the checkpoint is there");
        let builder = Cloze::builder().placement(Placement::new(BackendKind::Cpu, 1));
        let builder = builder.tokens_max(256).texts_max(TEXTS_MAX).warm_up(WarmUpExtent::Skip);
        builder.open(source).expect("the checkpoint is valid")
    });
    let task = CLOZE.pipeline().model();
    match task.plan(request, TEXTS_MAX) {
        Ok(mut plan) => {
            plan.sequences.truncate(2);
            let scores = plan.sequences.iter().map(|sequence| some_scores(sequence)).collect();
            task.decode(&Answer::new(plan, scores)).expect("the tokenizer is whole");
        }
        Err(error) => sentence(&error.into()),
    }
}

/// At most three for each mask, so that the largest answers do not take all the time.
fn some_scores(sequence: &Sequence) -> Scores {
    let score = |token| TokenScore {
        token,
        log_prob: 0.25_f32.ln(),
    };
    let of_mask: Vec<TokenScore> = match &sequence.readout.select {
        Select::TopK(k) => (0..*k as u32).take(3).map(score).collect(),
        Select::Tokens(tokens) => tokens.iter().copied().take(3).map(score).collect(),
        // Of another task.
        Select::Pool(_) => Vec::new(),
    };
    vec![of_mask; sequence.readout.positions.len()]
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A model folder in which files are replaced.
struct Folder(TempDir);

impl Folder {
    /// A copy of `fuzz/tiny`: one layer, hidden size 4, a vocabulary of 12 tokens.
    fn tiny() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(repository().join("fuzz/tiny")).expect("it is in the repository") {
            let entry = entry.expect("it is in the repository");
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("the disk has space");
        }
        Self(folder)
    }

    fn without(self, name: &str) -> Self {
        std::fs::remove_file(self.0.path().join(name)).expect("it is there");
        self
    }

    /// Replaces files, inspects the folder as `cloze inspect` does, and answers texts with the model if it is valid.
    fn with(&self, files: &[(&str, &[u8])]) {
        for (name, bytes) in files {
            std::fs::write(self.0.path().join(name), bytes).expect("the disk has space");
        }
        let inspection = Inspection::of(Source::folder(self.0.path()).expect("a folder"));
        let mut checkpoint = match PretrainedModel::open(self.0.path()) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                // The sentences may differ: with several faults, the two may name different ones.
                assert!(!inspection.errors.is_empty(), "inspect does not report {error}");
                return;
            }
        };
        let loaded = checkpoint.load(&Placement::new(BackendKind::Cpu, 1));
        assert_eq!(loaded.is_ok(), inspection.errors.is_empty(), "{:?}", inspection.errors);
        let Ok(mut loaded) = loaded else { return };
        let fill_mask = TaskModel::new(checkpoint.tokenizer, &checkpoint.info, 8);
        let parameters = Parameters::default();
        fill_mask.check(&parameters).expect("the defaults suit any model");
        for text in [
            fill_mask.mask_token(),
            "a [MASK] b.",
            "\u{e9}\u{4e00} [MASK] \0 ab [MASK]",
        ] {
            let request = Request {
                texts: vec![text.to_owned()],
                parameters: parameters.clone(),
            };
            // The server answers 500 if the tokenizer's library panics, and continues.
            let plan = catch_unwind(AssertUnwindSafe(|| fill_mask.plan(&request, 1)));
            let Ok(Ok(plan)) = plan else { continue };
            let mut batch = Batch::default();
            plan.sequences.iter().for_each(|sequence| batch.push(sequence));
            match loaded.workers[0].predict(batch) {
                // As above.
                Ok(scores) => drop(catch_unwind(AssertUnwindSafe(|| {
                    fill_mask.decode(&Answer::new(plan, scores))
                }))),
                // Sums of finite weights can exceed the range of f32.
                Err(ModelError::NotFinite) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}
