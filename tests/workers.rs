//! Several workers that share weights: same scores, and a fault of one worker does not affect the others.

#![cfg(feature = "cpu")]

use std::sync::Arc;
use std::time::Duration;

use cloze::engine::{Engine, EngineError, Limits};
use cloze::lm::{
    BackendKind, Batch, LoadError, MaskedLm, ModelError, Placement, PretrainedModel, Scores, Select, Sequence,
};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// A token that makes the faulty worker panic.
const POISON: u32 = 3;

fn load(workers: usize) -> Vec<Box<dyn MaskedLm>> {
    let placement = Placement {
        workers,
        ..Placement::new(BackendKind::Cpu, 2)
    };
    PretrainedModel::embedded().unwrap().load(&placement).unwrap().workers
}

fn engine(models: Vec<Box<dyn MaskedLm>>) -> Arc<Engine> {
    let limits = Limits {
        batch_tokens_max: 256,
        batch_size_max: 4,
        batch_delay: Duration::ZERO,
        queue_size: 1000,
    };
    Arc::new(Engine::start(models, limits).unwrap())
}

/// Texts of many lengths, each with one mask.
fn inputs() -> Vec<Sequence> {
    let text = |index: u32| {
        let tokens = 3 + index * 7 % 40;
        let mut input_ids: Vec<u32> = (0..tokens).map(|i| 100 + (index * 131 + i * 17) % 9000).collect();
        input_ids[1] = 4;
        Sequence::new(input_ids, [1], Select::TopK(5))
    };
    (0..60).map(text).collect()
}

/// Sends all inputs at once, each from its own task.
async fn ask_all(engine: &Arc<Engine>, inputs: Vec<Sequence>) -> Vec<Result<Scores, EngineError>> {
    let asking: Vec<_> = inputs
        .into_iter()
        .map(|input| {
            let engine = Arc::clone(engine);
            tokio::spawn(async move {
                let admission = engine.admit()?;
                engine
                    .submit(admission, &[Arc::new(input)], Instant::now() + MINUTE)
                    .await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in asking {
        answers.push(answer.await.unwrap().map(|(mut scores, _)| scores.remove(0)));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_give_the_scores_of_one() {
    let one = ask_all(&engine(load(1)), inputs()).await;
    let two = engine(load(2));
    for _ in 0..3 {
        for (one, two) in one.iter().zip(ask_all(&two, inputs()).await) {
            let (one, two) = (&one.as_ref().unwrap()[0], &two.unwrap()[0]);
            assert_eq!(one.len(), 5);
            for (one, two) in one.iter().zip(two) {
                assert_eq!(one.token, two.token);
                assert!((one.probability() - two.probability()).abs() < 1e-5, "{one:?}, {two:?}");
            }
        }
    }
}

/// A worker that panics in the middle of a batch.
struct Faulty(Box<dyn MaskedLm>);

impl MaskedLm for Faulty {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        let is_poisoned = batch.token_ids().contains(&POISON);
        let scores = self.0.predict(batch);
        assert!(!is_poisoned, "an injected panic");
        scores
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_one_worker_does_not_stop_the_other() {
    let faulty = load(2)
        .into_iter()
        .map(|model| -> Box<dyn MaskedLm> { Box::new(Faulty(model)) });
    let engine = engine(faulty.collect());
    let mut inputs = inputs();
    for input in inputs.iter_mut().step_by(20) {
        input.token_ids[0] = POISON;
    }
    for (index, answer) in ask_all(&engine, inputs).await.into_iter().enumerate() {
        match index % 20 {
            0 => assert!(matches!(answer, Err(EngineError::Model(_))), "{answer:?}"),
            _ => assert_eq!(answer.unwrap()[0].len(), 5),
        }
    }
    assert!(engine.is_ready());
    tokio::task::spawn_blocking(move || engine.stop()).await.unwrap();
}

#[test]
fn more_workers_than_threads_are_refused() {
    let placement = Placement {
        workers: 3,
        ..Placement::new(BackendKind::Cpu, 2)
    };
    match PretrainedModel::embedded().unwrap().load(&placement) {
        Err(LoadError::TooManyWorkers { workers: 3, threads: 2 }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("three workers on two threads"),
    }
}
