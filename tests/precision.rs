//! The accuracy of `--dtype bf16` and `int8` on the CPU, and of `f16` on a GPU, with the demo model.
//!
//! Each sentence of `model/train/cloze.tsv`, with its first accepted answer filled in, is masked at each of its tokens
//! in turn. If `CLOZE_HELDOUT_TEXT` names a file with text that the model has not seen (`model/train/prepare.py` writes
//! it), one test measures many more masks, and compares with the tokens of that text.

mod common;

use cloze::backend::Precision;
use cloze::lm::{BackendKind, Batch, LoadedModel, Placement, PretrainedModel, Select, Sequence, TokenScore};
use common::harness::{self, Requirement};
use common::machine::{cpu, f16};

harness::main! {
    cpu() => [low_precision_answers_sentences_as_f32_does],
    cpu().and(f16()) => [a_gpu_in_f16_answers_sentences_as_f32_does],
    cpu().and(held_out_text()) => [low_precision_answers_held_out_text_nearly_as_f32_does],
}

const HELD_OUT_TEXT: &str = "CLOZE_HELDOUT_TEXT";

fn held_out_text() -> Requirement {
    match std::env::var_os(HELD_OUT_TEXT) {
        Some(_) => Ok(()),
        None => Err(format!("{HELD_OUT_TEXT} names no file")),
    }
}

const SENTENCES: &str = include_str!("../model/train/cloze.tsv");

/// Token ids and the positions of the masks.
type Question = (Vec<u32>, Vec<usize>);

/// Tokens for each mask: accuracy is measured for the first one and among five.
const TOP_K: usize = 5;
/// The length of the sequences that the demo model was trained with.
const RUN_TOKENS: usize = 126;
/// For each precision the least share of masks that agree with f32, and the largest difference of a score.
const LIMITS: [(Precision, f64, f32); 2] = [(Precision::Bf16, 0.99, 0.02), (Precision::Int8, 0.97, 0.06)];

/// The sentences as token ids, each once for every position of the mask.
fn questions(checkpoint: &PretrainedModel) -> Vec<Question> {
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
            questions.push((asked, vec![position]));
        }
    }
    questions
}

/// The likeliest tokens for each mask of `questions`.
fn answers(questions: &[Question], top_k: usize, precision: Precision) -> Vec<Vec<TokenScore>> {
    let placement = Placement {
        precision: Some(precision),
        ..Placement::new(BackendKind::Cpu, 2)
    };
    let loaded = PretrainedModel::embedded().unwrap().load(&placement).unwrap();
    assert_eq!(loaded.precision, precision);
    answers_of(loaded, questions, top_k)
}

fn answers_of(mut loaded: LoadedModel, questions: &[Question], top_k: usize) -> Vec<Vec<TokenScore>> {
    let mut answers = Vec::new();
    for questions in questions.chunks(16) {
        let mut batch = Batch::default();
        for (ids, positions) in questions {
            batch.push(&Sequence::new(
                ids.as_slice(),
                positions.as_slice(),
                Select::TopK(top_k),
            ));
        }
        answers.extend(loaded.workers[0].predict(batch).unwrap().into_iter().flatten());
    }
    answers
}

/// The share of masks where the likeliest token is that of f32, and the largest difference of its score.
fn compare(exact: &[Vec<TokenScore>], rounded: &[Vec<TokenScore>]) -> (f64, f32) {
    assert_eq!(exact.len(), rounded.len());
    let same = exact.iter().zip(rounded).filter(|(e, r)| e[0].token == r[0].token);
    let pairs = exact.iter().zip(rounded);
    let differences = pairs.filter_map(|(e, r)| {
        let twin = r.iter().find(|score| score.token == e[0].token)?;
        Some((twin.probability() - e[0].probability()).abs())
    });
    (
        same.count() as f64 / exact.len() as f64,
        differences.fold(0.0, f32::max),
    )
}

fn low_precision_answers_sentences_as_f32_does() {
    let checkpoint = PretrainedModel::embedded().unwrap();
    let questions = questions(&checkpoint);
    let exact = answers(&questions, TOP_K, Precision::F32);
    assert!(exact.len() >= 400, "only {} masks", exact.len());
    for (precision, agreement_min, difference_max) in LIMITS {
        let (agreement, worst) = compare(&exact, &answers(&questions, TOP_K, precision));
        let masks = exact.len();
        eprintln!("{precision}: {agreement:.4} of {masks} masks agree, scores differ by {worst:.4} at most");
        assert!(
            agreement >= agreement_min && worst <= difference_max,
            "{precision}: {agreement}, {worst}"
        );
    }
}

fn a_gpu_in_f16_answers_sentences_as_f32_does() {
    let mut checkpoint = PretrainedModel::embedded().unwrap();
    let placement = Placement {
        precision: Some(Precision::F16),
        ..Placement::new(BackendKind::Gpu, 2)
    };
    let loaded = checkpoint.load(&placement).unwrap();
    let questions = questions(&checkpoint);
    let exact = answers(&questions, TOP_K, Precision::F32);
    let (agreement, worst) = compare(&exact, &answers_of(loaded, &questions, TOP_K));
    let masks = exact.len();
    eprintln!("f16: {agreement:.4} of {masks} masks agree, scores differ by {worst:.5} at most");
    assert!(agreement >= 0.995 && worst <= 2e-3, "{agreement}, {worst}");
}

/// Sequences of whole lines, up to 126 tokens long, with every seventh token masked; and the tokens behind the masks.
fn held_out(checkpoint: &PretrainedModel, text: &str) -> (Vec<Question>, Vec<u32>) {
    let tokenizer = &checkpoint.tokenizer;
    let (mut questions, mut truth) = (Vec::new(), Vec::new());
    let mut run: Vec<u32> = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut ask = |run: &mut Vec<u32>, start: u32, end: u32| {
        let mut ids: Vec<u32> = std::iter::once(start).chain(run.drain(..)).chain([end]).collect();
        let positions: Vec<usize> = (1..ids.len() - 1).skip(3).step_by(7).collect();
        for &position in &positions {
            truth.push(std::mem::replace(&mut ids[position], tokenizer.mask_id));
        }
        if !positions.is_empty() {
            questions.push((ids, positions));
        }
    };
    for line in text.lines() {
        let encoding = tokenizer.tokenizer.encode_fast(line, true).expect("English");
        let [first, words @ .., last] = encoding.get_ids() else {
            panic!("a text has a beginning and an end");
        };
        (start, end) = (*first, *last);
        if run.len() + words.len() > RUN_TOKENS {
            ask(&mut run, start, end);
        }
        run.extend(&words[..words.len().min(RUN_TOKENS)]);
    }
    ask(&mut run, start, end);
    (questions, truth)
}

fn low_precision_answers_held_out_text_nearly_as_f32_does() {
    let path = std::env::var_os(HELD_OUT_TEXT).expect("a path");
    let text = std::fs::read_to_string(path).expect("a text");
    let checkpoint = PretrainedModel::embedded().unwrap();
    let (questions, truth) = held_out(&checkpoint, &text);
    let exact = answers(&questions, TOP_K, Precision::F32);
    let right = |answers: &[Vec<TokenScore>], of: usize| {
        let is_right = |(answer, truth): &(&Vec<TokenScore>, &u32)| answer[..of].iter().any(|s| s.token == **truth);
        answers.iter().zip(&truth).filter(is_right).count() as f64 * 100.0 / truth.len() as f64
    };
    let (first, five) = (right(&exact, 1), right(&exact, 5));
    eprintln!(
        "f32: {first:.2} % right, {five:.2} % among five, of {} masks",
        truth.len()
    );
    for (precision, agreement_min, _) in LIMITS {
        let rounded = answers(&questions, TOP_K, precision);
        let (agreement, worst) = compare(&exact, &rounded);
        let (first_now, five_now) = (right(&rounded, 1), right(&rounded, 5));
        eprintln!(
            "{precision}: {first_now:.2} % right, {five_now:.2} % among five; {agreement:.4} agree, scores differ by \
             {worst:.4} at most"
        );
        assert!(
            agreement >= agreement_min && first - first_now < 0.5 && five - five_now < 0.5,
            "{precision}"
        );
    }
}
