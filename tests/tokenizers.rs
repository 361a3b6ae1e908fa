//! Token ids beside those of transformers, over random texts, for each kind and layout of tokenizer files.
//! `TOKENIZER_CASES` names another file of cases; `tests/fixtures/tokenizers/make.py` writes them.

use std::collections::BTreeMap;
use std::path::Path;

use cloze::checkpoint::{Source, TokenizerFiles};
use cloze::text::Tokenizer;
use cloze::work::{WorkBudget, run_to_end};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    contents: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Names, and indexes in the contents.
    files: BTreeMap<String, usize>,
    /// A part of the sentence that refuses the files.
    refused: Option<String>,
    #[serde(default)]
    mask: (String, u32),
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    ids: Vec<Vec<u32>>,
    #[serde(default)]
    decoded: Vec<String>,
    #[serde(default)]
    pieces: Vec<(u32, String)>,
}

impl Case {
    fn open(&self, contents: &[String]) -> Result<TokenizerFiles, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, &content) in &self.files {
            let bytes = match name.ends_with(".model") {
                true => from_hex(&contents[content]),
                false => contents[content].clone().into_bytes(),
            };
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let source = Source::folder(folder.path()).unwrap();
        source.tokenizer().map_err(|error| error.to_string())
    }

    /// The differences from transformers, one sentence for each.
    fn differences(&self, contents: &[String]) -> Vec<String> {
        let files = match (self.open(contents), &self.refused) {
            (Ok(files), None) => files,
            (Err(error), Some(part)) if error.contains(part) => return Vec::new(),
            (Err(error), _) => return vec![format!("refused: {error}")],
            (Ok(_), Some(_)) => return vec!["not refused".to_owned()],
        };
        let mut differences = Vec::new();
        let mask = (files.mask_token.clone(), files.mask_id);
        if mask != self.mask {
            differences.push(format!("mask {mask:?}, expected {:?}", self.mask));
        }
        let tokenizer = Tokenizer::new(files, 100_000);
        for ((text, expected), decoded) in self.texts.iter().zip(&self.ids).zip(&self.decoded) {
            let ids = run_to_end(tokenizer.encode(text, &mut WorkBudget::new(u64::MAX))).unwrap();
            if ids != *expected {
                differences.push(format!("{text:?}: {ids:?}, expected {expected:?}"));
            }
            let own = tokenizer.decode(expected, true).unwrap();
            if own != *decoded {
                differences.push(format!("decoded {own:?}, expected {decoded:?}"));
            }
        }
        for (id, expected) in &self.pieces {
            let own = tokenizer.decode(&[*id], false).unwrap();
            if own != *expected {
                differences.push(format!("token {id} is {own:?}, expected {expected:?}"));
            }
        }
        differences
    }
}

fn from_hex(digits: &str) -> Vec<u8> {
    let bytes = (0..digits.len()).step_by(2);
    bytes
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn token_ids_are_those_of_transformers() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/cases.json");
    let path = std::env::var_os("TOKENIZER_CASES").map_or(own, Into::into);
    let Cases { contents, cases } = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut different = 0;
    for case in &cases {
        let differences = case.differences(&contents);
        different += usize::from(!differences.is_empty());
        for difference in differences.iter().take(3) {
            println!("{}: {difference}", case.name);
        }
    }
    assert!(!cases.is_empty());
    assert_eq!(different, 0, "of {} cases", cases.len());
}
