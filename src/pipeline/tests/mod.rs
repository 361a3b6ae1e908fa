//! The pipeline over the demo model's tokenizer and a model that each test controls.

mod deadlines;
mod turns;

use super::*;
use crate::backend::Precision;
use crate::engine::Limits;
use crate::lm::{Batch, LoadedModel, MaskedLm, ModelError, PretrainedModel, Scores, TokenScore};
use crate::tasks::fill_mask::{InputError, Parameters, Request};
use crate::tasks::score;
use crate::{Builder, Cloze, WarmUpExtent};

const MINUTE: Duration = Duration::from_secs(60);

/// Calls a function of the test for each batch; then every mask reads `a`.
struct FakeModel<F>(F);

impl<F: FnMut(&Batch) -> Result<(), ModelError> + Send> MaskedLm for FakeModel<F> {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        (self.0)(&batch)?;
        let score = TokenScore {
            token: 5,
            log_prob: 0.5_f32.ln(),
        };
        let scores = batch.readouts().map(|(rows, _)| vec![vec![score]; rows.len()]);
        Ok(scores.collect())
    }
}

/// The pipeline of `builder` with texts of 64 tokens and this model.
fn pipeline_with(
    builder: Builder,
    model: impl FnMut(&Batch) -> Result<(), ModelError> + Send + 'static,
) -> Arc<Pipeline> {
    let model = LoadedModel::custom("test", Precision::F32, vec![Box::new(FakeModel(model))]);
    let builder = builder.tokens_max(64).warm_up(WarmUpExtent::Skip);
    let cloze = builder.start(PretrainedModel::embedded().unwrap(), model).unwrap();
    Arc::clone(cloze.pipeline())
}

fn pipeline(model: impl FnMut(&Batch) -> Result<(), ModelError> + Send + 'static, queue_size: usize) -> Arc<Pipeline> {
    let limits = Limits {
        queue_size,
        ..Limits::default()
    };
    pipeline_with(Cloze::builder().limits(limits), model)
}

fn request(texts: &[&str]) -> Request {
    Request {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        parameters: Parameters::default(),
    }
}

async fn run(pipeline: &Arc<Pipeline>, texts: &[&str], deadline: Deadline) -> Result<Answered, Error> {
    let admission = pipeline.admit()?;
    let scored = pipeline.run(admission, request(texts), deadline).await?;
    pipeline.decode(scored, deadline).await
}

fn passes(pipeline: &Pipeline) -> u64 {
    pipeline.engine.stats().batch_tokens.snapshot().count()
}

#[tokio::test]
async fn a_request_is_answered_with_its_cost() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let answered = run(&pipeline, &["the [MASK]", "[MASK] and [MASK]"], Deadline::after(MINUTE));
    let answered = answered.await.unwrap();
    let masks: Vec<usize> = answered.texts.iter().map(Vec::len).collect();
    assert_eq!(masks, [1, 2]);
    let prediction = &answered.texts[0][0][0];
    assert_eq!((prediction.token, prediction.score), (5, 0.5));
    assert!(prediction.sequence.starts_with("the"), "{prediction:?}");
    // [CLS] the [MASK] [SEP] and [CLS] [MASK] and [MASK] [SEP]
    let cost = answered.cost;
    assert_eq!((cost.texts, cost.tokens), (2, 9));
    assert!(cost.tokenizing > Duration::ZERO && cost.timing.inference > Duration::ZERO);
    assert!(answered.bytes() > 10);
}

#[tokio::test]
async fn refusals_of_the_task_reach_no_model() {
    let pipeline = pipeline(|_| panic!("computed"), 2);
    let too_many = InputError::TooManyTexts { texts: 3, max: 2 };
    for (texts, expected) in [
        (&["[MASK]"; 3][..], Some(too_many)),
        (&["no mask"], None),
        (&["[MASK]", " "], None),
    ] {
        let error = run(&pipeline, texts, Deadline::never()).await.unwrap_err();
        match expected {
            Some(expected) => assert_eq!(error, Error::Input(expected)),
            None => assert!(matches!(error, Error::Input(_)), "{error}"),
        }
    }
    assert_eq!(passes(&pipeline), 0);
    assert!(pipeline.admit().is_ok(), "a refused request gives its place back");
}

#[tokio::test]
async fn the_limit_on_texts_can_differ_from_the_size_of_the_queue() {
    let pipeline = pipeline_with(Cloze::builder().texts_max(2), |_| Ok(()));
    assert!(pipeline.plan(&request(&["[MASK]"; 2])).is_ok());
    assert!(pipeline.plan(&request(&["[MASK]"; 3])).is_err());
}

#[tokio::test]
async fn two_lists_admitted_while_the_queue_is_empty_are_both_answered() {
    let pipeline = pipeline(
        |_| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        },
        4,
    );
    let lists = [["[MASK]"; 4]; 2].map(|texts| (pipeline.admit().unwrap(), request(&texts)));
    let runs = lists.map(|(admission, request)| pipeline.run(admission, request, Deadline::after(MINUTE)));
    for answered in futures_util::future::join_all(runs).await {
        assert_eq!(answered.unwrap().cost.texts, 4);
    }
    assert_eq!(pipeline.engine.stats().rejected.get(), 0);
}

#[tokio::test]
async fn a_full_queue_and_a_stopped_engine_refuse_at_admission() {
    let pipeline = pipeline(|_| Ok(()), 1);
    let place = pipeline.admit().unwrap();
    assert_eq!(pipeline.admit().unwrap_err(), Error::Overloaded);
    drop(place);
    let stopping = Arc::clone(&pipeline);
    tokio::task::spawn_blocking(move || stopping.engine.stop())
        .await
        .unwrap();
    assert_eq!(pipeline.admit().unwrap_err(), Error::Stopped);
}

#[tokio::test]
async fn a_failing_model_is_an_internal_error() {
    let pipeline = pipeline(|_| Err(ModelError::NotFinite), 8);
    let error = run(&pipeline, &["[MASK]"], Deadline::after(MINUTE)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Internal(reason) if reason.contains("finite")),
        "{error}"
    );
}

/// A text list whose tokenization takes a second or so without optimization.
fn expensive() -> Request {
    let word = format!("{}\u{2603} ", "x".repeat(98));
    let text = format!("[MASK] {}", word.repeat(50));
    request(&[text.as_str(); 32])
}

#[tokio::test]
async fn the_memory_of_answers_is_limited_over_all_requests() {
    let pipeline = Arc::new(Arc::into_inner(pipeline(|_| Ok(()), 8)).unwrap().with_memory_max(200));
    let first = run(&pipeline, &["the [MASK]"], Deadline::never()).await.unwrap();
    let used = pipeline.memory().used();
    assert!((20..150).contains(&used), "{used}");
    let refused = run(&pipeline, &["the [MASK]"; 3], Deadline::never()).await;
    assert_eq!(refused.unwrap_err(), Error::Memory(MemoryError::Full));
    assert_eq!(pipeline.memory().used(), used);
    drop(first);
    assert_eq!(pipeline.memory().used(), 0);
    run(&pipeline, &["the [MASK]"; 2], Deadline::never()).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_work_is_an_internal_error() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let panicked = pipeline.compute(Deadline::never(), async { panic!("on purpose") });
    assert!(matches!(panicked.await.map(drop::<()>), Err(Error::Internal(_))));
}

#[tokio::test]
async fn small_work_runs_at_once_and_large_work_elsewhere() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let here = std::thread::current().id();
    for (bytes, expected) in [(INLINE_BYTES_MAX, true), (INLINE_BYTES_MAX + 1, false)] {
        let work = || std::thread::current().id();
        let ran_on = pipeline.compute_bytes(bytes, Deadline::never(), work).await.unwrap();
        assert_eq!(ran_on == here, expected, "{bytes} bytes");
    }
}
