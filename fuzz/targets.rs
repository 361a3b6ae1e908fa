//! What is fuzzed, as plain functions: `fuzz_targets/` gives them to libFuzzer, `tests/fuzz_corpus.rs` replays the
//! corpus through them in an ordinary test.
//!
//! Each takes any bytes and must come back: refused with a sentence or accepted, and what is accepted must work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;

use cloze::bert::{PackedBatch, PredictError, Selection, TokenScore};
use cloze::checkpoint::inspect::Inspection;
use cloze::checkpoint::{BackendKind, Checkpoint, Placement, Source};
use cloze::fill_mask::{FillMask, Question, Wanted};
use cloze::server::{ApiError, FillMaskRequest, Form, parse_infer, prepare};
use tempfile::TempDir;

/// As the server has it by default.
const TEXTS_MAX: usize = 512;
/// As `--max-body-bytes` has it by default.
const BODY_BYTES_MAX: usize = 1 << 20;

/// For whoever ends the process at any panic: not at those in the tokenizer's library, which are caught where it is
/// used, or are a finding after all.
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

/// The body of `POST /`, as JSON; and as the text itself where it is no JSON.
pub fn request(body: &[u8]) {
    match Form::Json.parse(body) {
        Ok(request) => answer(&request),
        Err(error) => {
            sentence(&error);
            if let Ok(request) = Form::Text.parse(body) {
                answer(&request);
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

/// `config.json` beside a whole model that fits another one.
pub fn config(file: &[u8]) {
    static MODEL: LazyLock<Folder> = LazyLock::new(Folder::tiny);
    MODEL.with(&[("config.json", file)]);
}

/// `tokenizer.json` beside a whole model that fits another one.
pub fn tokenizer(file: &[u8]) {
    static MODEL: LazyLock<Folder> = LazyLock::new(Folder::tiny);
    MODEL.with(&[("tokenizer.json", file)]);
}

/// `vocab.txt`, and behind a zero byte `tokenizer_config.json`.
pub fn vocab(input: &[u8]) {
    static MODEL: LazyLock<Folder> = LazyLock::new(|| Folder::tiny().without("tokenizer.json"));
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let vocab = parts.next().unwrap_or_default();
    let settings = parts.next().unwrap_or(b"{}");
    MODEL.with(&[("vocab.txt", vocab), ("tokenizer_config.json", settings)]);
}

/// `model.safetensors`, or the index of several where the input looks like one.
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

/// Every error is something to read.
fn sentence(error: &ApiError) {
    let text = error.to_string();
    assert!(text.ends_with('.'), "not a sentence: {text}");
    // What came in may be repeated, but not many times over.
    assert!(text.len() < 2 * BODY_BYTES_MAX, "{} bytes of error", text.len());
}

/// Goes the way of a request that could be read, with a model that says something of everything.
fn answer(request: &FillMaskRequest) {
    static FILL_MASK: LazyLock<FillMask> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder.join(if folder.ends_with("fuzz") { ".." } else { "." });
        let checkpoint = Checkpoint::open(&folder.join("tests/fixtures/golden/uncased-tied")).expect("it is whole");
        FillMask::new(checkpoint.tokenizer, &checkpoint.config, 256)
    });
    match prepare(&FILL_MASK, request, TEXTS_MAX) {
        Ok((wanted, questions)) => {
            for question in questions.iter().take(2) {
                let scores = question.mask_positions.iter().map(|_| some_scores(&wanted)).collect();
                FILL_MASK
                    .answer(question, &wanted, scores)
                    .expect("the tokenizer is whole");
            }
        }
        Err(error) => sentence(&error),
    }
}

/// At most three, so that the largest answers do not take all the time.
fn some_scores(wanted: &Wanted) -> Vec<TokenScore> {
    let score = |token| TokenScore { token, score: 0.25 };
    match &wanted.selection {
        Selection::TopK(k) => (0..*k as u32).take(3).map(score).collect(),
        Selection::Tokens(tokens) => tokens.iter().copied().take(3).map(score).collect(),
    }
}

/// A model folder in which files are replaced.
struct Folder(TempDir);

impl Folder {
    /// A copy of `fuzz/tiny`: one layer, four wide, a vocabulary of twelve.
    fn tiny() -> Self {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tiny = tiny.join(if tiny.ends_with("fuzz") { "tiny" } else { "fuzz/tiny" });
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(tiny).expect("it is in the repository") {
            let entry = entry.expect("it is in the repository");
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("there is room");
        }
        Self(folder)
    }

    fn without(self, name: &str) -> Self {
        std::fs::remove_file(self.0.path().join(name)).expect("it is there");
        self
    }

    /// Looks at the folder with these files in it as `cloze inspect` does, and serves it if it is sound.
    fn with(&self, files: &[(&str, &[u8])]) {
        for (name, bytes) in files {
            std::fs::write(self.0.path().join(name), bytes).expect("there is room");
        }
        let inspection = Inspection::of(Source::folder(self.0.path()).expect("a folder"));
        let mut checkpoint = match Checkpoint::open(self.0.path()) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                // Not by their words: of several faults either may tell another.
                assert!(!inspection.errors.is_empty(), "inspect does not tell {error}");
                return;
            }
        };
        let loaded = checkpoint.load_on(&Placement::new(BackendKind::Cpu, 1));
        assert_eq!(
            loaded.is_ok(),
            inspection.errors.is_empty(),
            "{:?}",
            inspection.errors
        );
        let Ok(mut loaded) = loaded else { return };
        let fill_mask = FillMask::new(checkpoint.tokenizer, &checkpoint.config, 8);
        let wanted = fill_mask
            .wanted(&Default::default())
            .expect("the defaults suit any model");
        for text in [
            fill_mask.mask_token(),
            "a [MASK] b.",
            "\u{e9}\u{4e00} [MASK] \0 ab [MASK]",
        ] {
            // The server answers 500 where the tokenizer's library panics, and goes on.
            let question = catch_unwind(AssertUnwindSafe(|| fill_mask.question(text, &wanted)));
            let Ok(Ok(question)) = question else { continue };
            let Question {
                input_ids,
                mask_positions,
            } = &question;
            let mut batch = PackedBatch::default();
            batch.push(input_ids, mask_positions, &wanted.selection);
            match loaded.model.predict(&batch) {
                // Likewise.
                Ok(scores) => drop(catch_unwind(AssertUnwindSafe(|| {
                    fill_mask.answer(&question, &wanted, scores)
                }))),
                // Finite weights can still add up to more than f32 holds.
                Err(PredictError::NotFinite) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}
