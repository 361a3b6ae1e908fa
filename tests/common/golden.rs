//! The golden files and the comparison with them.

use std::path::{Path, PathBuf};

use cloze::backend::Precision;
use cloze::lm::{BackendKind, Batch, DeviceInfo, MaskedLm, Placement, PretrainedModel};
use cloze::tasks::TaskModel;
use cloze::tasks::fill_mask::{Answer, InputError, Parameters, Plan, Prediction, Request, TextAnswer};
use serde::Deserialize;
use serde_json::Value;

use super::fixtures::golden_checkpoints;

/// The largest difference of a score.
const TOLERANCE: f32 = 1e-5;
/// With AMX, which computes f32 as two bf16 with 16 bits together.
const AMX_TOLERANCE: f32 = 1e-4;
/// In f16, which has 11 bits. Tokens whose scores are closer than that may change places.
const F16_TOLERANCE: f32 = 2e-3;

/// Cases that the server refuses, so that they never reach the model. Transformers answers with an empty list, fails
/// deep inside, or accepts a `top_k` without an answer. The server's unit tests have them.
const DECIDED_IN_HTTP: &[&str] = &[
    "top_k 0",
    "top_k negative",
    "empty list",
    "targets, top_k beyond the vocabulary",
];

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    name: String,
    inputs: Value,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    input_ids: Vec<Vec<u32>>,
    output: Option<Value>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Expected {
    score: f32,
    token: u32,
    token_str: String,
    sequence: String,
}

/// A string or a list of strings.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().map(|text| text.as_str().unwrap().to_owned()).collect(),
        text => vec![text.as_str().unwrap().to_owned()],
    }
}

fn parameters(case: &Case) -> Parameters {
    let given = |name: &str| case.parameters.get(name).filter(|value| !value.is_null());
    Parameters {
        top_k: given("top_k").map(|top_k| top_k.as_u64().unwrap() as usize),
        targets: given("targets").map(strings),
        ..Parameters::default()
    }
}

/// One checkpoint: its task, its model and its cases.
struct Subject {
    name: String,
    fill_mask: TaskModel,
    model: Box<dyn MaskedLm>,
    cases: Vec<Case>,
    tolerance: f32,
}

fn goldens(folder: &Path) -> Vec<Case> {
    let json = std::fs::read(folder.join("golden.json")).unwrap();
    let mut cases = serde_json::from_slice::<Golden>(&json).unwrap().cases;
    cases.retain(|case| !DECIDED_IN_HTTP.contains(&case.name.as_str()));
    cases
}

/// Checkpoints whose forward pass is that of another one: they differ in their files and their tokenizers, which a GPU
/// does not see.
const SAME_FORWARD_PASS: &[&str] = &[
    "albert-sentencepiece",
    "camembert",
    "camembert-sentencepiece",
    "data2vec-text",
    "distilbert",
    "electra",
    "ernie",
    "esm-1b",
    "gte-new",
    "jina-embeddings-v3",
    "nomic-bert",
    "nomic-bert-published",
    "roberta-prelayernorm",
    "roberta-vocab-merges",
    "squeezebert",
    "xlm-roberta",
    "xlm-roberta-sentencepiece",
    "xlm-roberta-xl",
];

/// The folders of the golden checkpoints that a backend computes.
fn folders_for(backend: BackendKind) -> Vec<PathBuf> {
    let mut folders = folders();
    if backend == BackendKind::Gpu {
        folders.retain(|folder| !SAME_FORWARD_PASS.iter().any(|name| folder.ends_with(name)));
    }
    folders
}

/// The folders of all golden checkpoints.
fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden_checkpoints()).unwrap();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() >= 8, "the golden checkpoints are missing: {folders:?}");
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("model"));
    folders
}

/// All golden checkpoints, loaded on a backend.
fn subjects(backend: BackendKind, precision: Precision) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for folder in folders_for(backend) {
        let mut checkpoint = PretrainedModel::open(&folder).unwrap();
        let placement = Placement {
            precision: Some(precision),
            ..Placement::new(backend, 2)
        };
        let mut loaded = checkpoint.load(&placement).unwrap();
        eprintln!("{}: {}", checkpoint.name, loaded.device);
        subjects.push(Subject {
            name: checkpoint.name.clone(),
            fill_mask: TaskModel::new(checkpoint.tokenizer, &checkpoint.info, usize::MAX),
            cases: goldens(&folder),
            tolerance: match loaded.precision {
                Precision::F16 => F16_TOLERANCE,
                _ if matches!(&loaded.device, DeviceInfo::Cpu { isa, .. } if isa == "amx") => AMX_TOLERANCE,
                _ => TOLERANCE,
            },
            model: loaded.workers.remove(0),
        });
    }
    subjects
}

fn plan(fill_mask: &TaskModel, case: &Case) -> Result<Plan, InputError> {
    let request = Request {
        texts: strings(&case.inputs),
        parameters: parameters(case),
    };
    fill_mask.plan(&request, usize::MAX)
}

/// The answers to all texts of any number of requests, in one forward pass.
fn predict(subject: &mut Subject, plans: &[&Plan]) -> Vec<TextAnswer> {
    let mut batch = Batch::default();
    for sequence in plans.iter().flat_map(|plan| &plan.sequences) {
        batch.push(sequence);
    }
    let mut scores = subject.model.predict(batch).unwrap().into_iter();
    let answers = plans.iter().flat_map(|plan| {
        let scores = scores.by_ref().take(plan.sequences.len()).collect();
        subject.fill_mask.decode(&Answer::new((*plan).clone(), scores)).unwrap()
    });
    answers.collect()
}

/// The output of each of `texts` texts. The output of a single text has no list around it.
fn outputs(output: &Value, texts: usize) -> Vec<&Value> {
    if texts == 1 {
        return vec![output];
    }
    let list: Vec<&Value> = output.as_array().unwrap().iter().collect();
    assert_eq!(list.len(), texts);
    list
}

/// The largest error of a score, if it is within `tolerance`.
fn compare(what: &str, answer: &TextAnswer, expected: &Value, tolerance: f32) -> f32 {
    let is_single = expected[0].is_object();
    match &answer[..] {
        [predictions] => {
            assert!(is_single, "{what}: expected a list for each of several masks");
            compare_predictions(what, predictions, expected, tolerance)
        }
        masks => {
            assert!(!is_single, "{what}: expected one list");
            assert_eq!(masks.len(), expected.as_array().unwrap().len(), "{what}: masks");
            let masks = masks.iter().zip(expected.as_array().unwrap());
            masks
                .map(|(predictions, expected)| compare_predictions(what, predictions, expected, tolerance))
                .fold(0.0, f32::max)
        }
    }
}

fn compare_predictions(what: &str, predictions: &[Prediction], expected: &Value, tolerance: f32) -> f32 {
    let mut worst = 0.0f32;
    let expected: Vec<Expected> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(predictions.len(), expected.len(), "{what}: number of predictions");
    for (rank, (ours, theirs)) in predictions.iter().zip(&expected).enumerate() {
        let what = format!("{what}, rank {rank}");
        let difference = (ours.score - theirs.score).abs();
        worst = worst.max(difference);
        assert!(
            difference <= tolerance,
            "{what}: {} instead of {}",
            ours.score,
            theirs.score
        );
        if ours.token != theirs.token {
            // Far down a list two scores may be closer than their rounding errors.
            let is_half = tolerance >= F16_TOLERANCE;
            let twin = expected.iter().find(|other| other.token == ours.token);
            let twin = match twin {
                // It comes after the end of the list, so it is no likelier than the last one.
                None if is_half => expected.last(),
                twin => twin,
            };
            let twin = twin.unwrap_or_else(|| panic!("{what}: token {} is not expected at all", ours.token));
            let gap = (twin.score - theirs.score).abs();
            let gap_max = match is_half {
                true => tolerance,
                false => 2.0 * f32::EPSILON.max(theirs.score * 10.0 * tolerance),
            };
            assert!(gap <= gap_max, "{what}: {ours:?} instead of {theirs:?}");
            continue;
        }
        assert_eq!(ours.token_str, theirs.token_str, "{what}");
        assert_eq!(ours.sequence, theirs.sequence, "{what}");
    }
    worst
}

/// Every `step`th case alone, as a client would send it.
pub fn check_cases(backend: BackendKind, precision: Precision, step: usize) {
    for mut subject in subjects(backend, precision) {
        let mut worst = 0.0f32;
        for case in std::mem::take(&mut subject.cases).into_iter().step_by(step) {
            let what = format!("{}, case {}", subject.name, case.name);
            match (plan(&subject.fill_mask, &case), &case.output) {
                (Ok(plan), Some(output)) => {
                    for (sequence, ids) in plan.sequences.iter().zip(&case.input_ids) {
                        assert_eq!(&sequence.token_ids, ids, "{what}: token ids");
                    }
                    let answers = predict(&mut subject, &[&plan]);
                    for (answer, expected) in answers.iter().zip(outputs(output, answers.len())) {
                        worst = worst.max(compare(&what, answer, expected, subject.tolerance));
                    }
                }
                (Err(error), Some(_)) => panic!("{what}: refused with \"{error}\""),
                (Ok(_), None) => panic!("{what}: accepted, but transformers says {:?}", case.error),
                (Err(_), None) => {}
            }
        }
        eprintln!("{}: scores differ by {worst:.1e} at most", subject.name);
    }
}

/// The mean difference between the score of the likeliest token and that of transformers is at most `mean_max`, for the
/// masks of each checkpoint. These models are random and small, so rounding moves their scores more than those of
/// trained ones.
#[allow(dead_code)]
pub fn check_low_precision(precision: Precision, mean_max: f32) {
    for mut subject in subjects(BackendKind::Cpu, precision) {
        let (mut sum, mut worst, mut count) = (0.0f32, 0.0f32, 0usize);
        for case in std::mem::take(&mut subject.cases) {
            let (Some(output), Ok(plan)) = (&case.output, plan(&subject.fill_mask, &case)) else {
                continue;
            };
            let answers = predict(&mut subject, &[&plan]);
            for (masks, expected) in answers.iter().zip(outputs(output, answers.len())) {
                let expected = match expected[0].is_object() {
                    true => vec![expected],
                    false => expected.as_array().unwrap().iter().collect(),
                };
                for (predictions, expected) in masks.iter().zip(expected) {
                    let first: Expected = serde_json::from_value(expected[0].clone()).unwrap();
                    let ours = predictions.iter().find(|ours| ours.token == first.token);
                    let difference = ours.map_or(first.score, |ours| (ours.score - first.score).abs());
                    sum += difference;
                    worst = worst.max(difference);
                    count += 1;
                }
            }
        }
        let mean = sum / count as f32;
        eprintln!(
            "{}: {precision} moves scores by {mean:.4}, at most by {worst:.3}",
            subject.name
        );
        assert!(mean <= mean_max, "{}: {mean} in {precision}", subject.name);
    }
}

/// All texts of a checkpoint in one packed batch; each must get the answer that it gets alone.
pub fn check_one_batch(backend: BackendKind, precision: Precision) {
    check_subjects_in_one_batch(subjects(backend, precision));
}

/// The same for the models that `load` gives, in f32.
#[allow(dead_code)]
pub fn check_one_batch_of(load: impl Fn(&mut PretrainedModel) -> Box<dyn MaskedLm>) {
    let subjects = folders().into_iter().map(|folder| {
        let mut model = PretrainedModel::open(&folder).unwrap();
        Subject {
            model: load(&mut model),
            name: model.name,
            fill_mask: TaskModel::new(model.tokenizer, &model.info, usize::MAX),
            cases: goldens(&folder),
            tolerance: TOLERANCE,
        }
    });
    check_subjects_in_one_batch(subjects.collect());
}

fn check_subjects_in_one_batch(subjects: Vec<Subject>) {
    for mut subject in subjects {
        let cases = std::mem::take(&mut subject.cases);
        let answered = cases.iter().filter_map(|case| Some((case, case.output.as_ref()?)));
        let planned: Vec<_> = answered
            .map(|(case, output)| (case, plan(&subject.fill_mask, case).unwrap(), output))
            .collect();
        let plans: Vec<_> = planned.iter().map(|(_, plan, _)| plan).collect();
        let tolerance = subject.tolerance;
        let answers = predict(&mut subject, &plans);
        assert!(answers.len() >= 10, "{}: too few texts to say anything", subject.name);
        let (mut answers, mut worst) = (answers.into_iter(), 0.0f32);
        for (case, plan, output) in &planned {
            let what = format!("{}, case {} in a batch", subject.name, case.name);
            for expected in outputs(output, plan.sequences.len()) {
                worst = worst.max(compare(&what, &answers.next().unwrap(), expected, tolerance));
            }
        }
        eprintln!("{}: scores differ by {worst:.1e} at most", subject.name);
    }
}
