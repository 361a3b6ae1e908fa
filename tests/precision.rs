//! What `--dtype bf16` and `int8` cost in accuracy, on the demo model.
//!
//! Each everyday sentence of `model/train/cloze.tsv`, with its first accepted answer filled in, is asked about at every
//! one of its words in turn.

#![cfg(feature = "cpu")]

use cloze::backend::Precision;
use cloze::bert::{PackedBatch, Selection, TokenScore};
use cloze::checkpoint::{BackendKind, Checkpoint, Placement};

const SENTENCES: &str = include_str!("../model/train/cloze.tsv");

/// The sentences as token ids, and where the mask is to stand.
fn questions(checkpoint: &Checkpoint) -> Vec<(Vec<u32>, usize)> {
    let tokenizer = &checkpoint.tokenizer;
    let mut questions = Vec::new();
    for line in SENTENCES.lines().skip(1) {
        let (sentence, rest) = line.split_once('\t').expect("a sentence and its answers");
        let answer = rest.split([',', '\t']).next().expect("an answer");
        let text = sentence.replace("[MASK]", answer);
        let encoding = tokenizer.tokenizer.encode_fast(text, true).expect("English");
        let ids = encoding.get_ids();
        for position in 1..ids.len() - 1 {
            let mut asked = ids.to_vec();
            asked[position] = tokenizer.mask_id;
            questions.push((asked, position));
        }
    }
    questions
}

/// The two likeliest tokens at each mask.
fn answers(precision: Precision) -> Vec<Vec<TokenScore>> {
    let mut checkpoint = Checkpoint::embedded().unwrap();
    let placement = Placement {
        precision: Some(precision),
        ..Placement::new(BackendKind::Cpu, 2)
    };
    let mut loaded = checkpoint.load_on(&placement).unwrap();
    assert_eq!(loaded.precision, precision);
    let mut answers = Vec::new();
    for questions in questions(&checkpoint).chunks(50) {
        let mut batch = PackedBatch::default();
        for (ids, position) in questions {
            batch.push(ids, &[*position], &Selection::TopK(2));
        }
        answers.extend(loaded.model.predict(&batch).unwrap());
    }
    answers
}

/// The share of masks where the likeliest token is that of f32, and the greatest difference of its score.
fn compare(precision: Precision) -> (f64, f32) {
    let exact = answers(Precision::F32);
    let rounded = answers(precision);
    assert!(exact.len() >= 400, "only {} masks", exact.len());
    let same = exact.iter().zip(&rounded).filter(|(e, r)| e[0].token == r[0].token);
    let pairs = exact.iter().zip(&rounded);
    let differences = pairs.filter_map(|(e, r)| {
        let twin = r.iter().find(|score| score.token == e[0].token)?;
        Some((twin.score - e[0].score).abs())
    });
    let agreement = same.count() as f64 / exact.len() as f64;
    let worst = differences.fold(0.0, f32::max);
    eprintln!(
        "{precision}: {agreement:.4} of {} masks agree, scores differ by {worst:.4} at most",
        exact.len()
    );
    (agreement, worst)
}

#[test]
fn bf16_answers_as_f32_does() {
    let (agreement, worst) = compare(Precision::Bf16);
    assert!(agreement >= 0.99 && worst <= 0.02, "{agreement}, {worst}");
}

#[test]
fn int8_answers_nearly_as_f32_does() {
    let (agreement, worst) = compare(Precision::Int8);
    assert!(agreement >= 0.95 && worst <= 0.12, "{agreement}, {worst}");
}
