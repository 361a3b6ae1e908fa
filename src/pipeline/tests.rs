//! The pipeline over the demo model's tokenizer and a model that each test controls.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

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

/// Takes every thread that plans and decodes until the sender is dropped.
async fn take_all_threads(pipeline: &Pipeline) -> Sender<()> {
    let (release, gate) = channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    for _ in 0..pipeline.pool.threads() {
        let gate = Arc::clone(&gate);
        // Never ends by itself: the first waits for the release and holds the lock, the others wait for the lock.
        std::mem::forget(pipeline.pool.spawn(async move { gate.lock().unwrap().recv().is_err() }));
    }
    while pipeline.pool.len() < pipeline.pool.threads() || pipeline.pool.longest_wait() > Duration::ZERO {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    release
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

#[tokio::test]
async fn the_deadline_holds_while_a_request_waits_to_be_planned_and_to_be_decoded() {
    let timeout = Duration::from_millis(300);
    let pipeline = pipeline(|_| Ok(()), 8);
    let scored = pipeline.run(pipeline.admit().unwrap(), request(&["[MASK]"]), Deadline::never());
    let scored = scored.await.unwrap();
    let release = take_all_threads(&pipeline).await;
    let deadline = Deadline::after(timeout);
    let (planned, decoded) = tokio::join!(run(&pipeline, &["[MASK]"], deadline), pipeline.decode(scored, deadline));
    assert_eq!(planned.unwrap_err(), Error::Timeout(timeout));
    assert_eq!(decoded.unwrap_err(), Error::Timeout(timeout));
    assert_eq!(passes(&pipeline), 1);
    assert_eq!(pipeline.engine.stats().expired.get(), 2);
    drop(release);
}

#[tokio::test]
async fn the_deadline_holds_while_work_runs() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let (release, gate) = channel::<()>();
    let timeout = Duration::from_millis(30);
    let late = pipeline.compute(Deadline::after(timeout), async move { gate.recv() });
    assert_eq!(late.await.map(drop), Err(Error::Timeout(timeout)));
    assert_eq!(pipeline.engine.stats().expired.get(), 1);
    drop(release);
}

#[tokio::test]
async fn work_that_is_too_late_or_unwanted_when_its_turn_comes_never_starts() {
    for leaves in [false, true] {
        let pipeline = pipeline(|_| Ok(()), 8);
        let release = take_all_threads(&pipeline).await;
        let started = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&started);
        let timeout = Duration::from_millis(30);
        let deadline = if leaves {
            Deadline::never()
        } else {
            Deadline::after(timeout)
        };
        let late = pipeline.compute(deadline, async move { theirs.store(true, Ordering::SeqCst) });
        let expected = match leaves {
            // The client leaves.
            true => tokio::time::timeout(timeout, late).await.is_err(),
            false => late.await == Err(Error::Timeout(timeout)),
        };
        assert!(expected);
        drop(release);
        // Behind it, if it were still there.
        pipeline.compute(Deadline::never(), async {}).await.unwrap();
        assert!(!started.load(Ordering::SeqCst), "computed for no client");
    }
}

/// A text list whose tokenization takes a second or so without optimization.
fn expensive() -> Request {
    let word = format!("{}\u{2603} ", "x".repeat(98));
    let text = format!("[MASK] {}", word.repeat(50));
    request(&[text.as_str(); 32])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_left_while_it_was_planned_frees_its_place_and_its_thread_at_once() {
    let pipeline = pipeline(|_| Ok(()), 64);
    let started_at = Instant::now();
    pipeline.plan(&expensive()).unwrap();
    let alone = started_at.elapsed();
    for _ in 0..10 {
        let running = pipeline.run(pipeline.admit().unwrap(), expensive(), Deadline::never());
        let left = tokio::time::timeout(Duration::from_millis(5), running).await;
        assert!(left.is_err(), "too cheap for this test");
    }
    let left_at = Instant::now();
    while !pipeline.pool.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(left_at.elapsed() < alone, "the work of clients that left went on");
    assert_eq!(passes(&pipeline), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cheap_request_does_not_wait_for_expensive_ones() {
    let pipeline = pipeline(|_| Ok(()), 64);
    let expensive: Vec<_> = (0..8)
        .map(|_| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move {
                let admission = pipeline.admit().unwrap();
                pipeline.run(admission, expensive(), Deadline::never()).await.map(drop)
            })
        })
        .collect();
    while pipeline.computing() < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..10 {
        run(&pipeline, &["a [MASK]"], Deadline::never()).await.unwrap();
    }
    let unfinished = expensive.iter().filter(|task| !task.is_finished()).count();
    assert!(
        unfinished >= 6,
        "the cheap requests waited for {} others",
        8 - unfinished
    );
    for task in expensive {
        task.await.unwrap().unwrap();
    }
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

#[tokio::test]
async fn a_long_task_shares_the_model_with_short_ones() {
    // 62 tokens in a text, of which a batch takes four: the score of 60 texts takes 930 batches.
    let limits = Limits {
        batch_size_max: 4,
        ..Limits::default()
    };
    let batches = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let pipeline = pipeline_with(Cloze::builder().limits(limits), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let long = score::Request {
        texts: vec!["the ".repeat(62); 60],
        ..score::Request::default()
    };
    let running = {
        let pipeline = Arc::clone(&pipeline);
        tokio::spawn(async move {
            let admission = pipeline.admit().unwrap();
            pipeline.run(admission, long, Deadline::never()).await
        })
    };
    while batches.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..5 {
        let before = batches.load(Ordering::Relaxed);
        run(&pipeline, &["a [MASK]"], Deadline::never()).await.unwrap();
        let waited = batches.load(Ordering::Relaxed) - before;
        // A piece is 128 batches.
        assert!(waited < 100, "a text waited for {waited} batches");
    }
    assert!(!running.is_finished());
    let scored = running.await.unwrap().unwrap();
    let cost = scored.cost;
    assert_eq!((cost.task, cost.texts, cost.tokens), ("score", 60, 60 * 64));
    assert_eq!((cost.computed.sequences, cost.computed.tokens), (60 * 62, 60 * 62 * 65));
    assert!(cost.timing.queue > Duration::from_millis(100), "{:?}", cost.timing);
}

#[tokio::test]
async fn a_departed_client_ends_a_long_task() {
    let batches = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let limits = Limits {
        batch_size_max: 4,
        ..Limits::default()
    };
    let pipeline = pipeline_with(Cloze::builder().limits(limits), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let long = score::Request {
        texts: vec!["the ".repeat(62); 200],
        ..score::Request::default()
    };
    let admission = pipeline.admit().unwrap();
    let running = pipeline.run(admission, long, Deadline::never());
    let begun = async {
        while batches.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = running => panic!("3,100 batches within the time of five"),
        () = begun => {}
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = batches.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(batches.load(Ordering::Relaxed), after, "batches go on");
    assert_eq!(pipeline.memory().used(), 0);
    run(&pipeline, &["a [MASK]"], Deadline::after(MINUTE)).await.unwrap();
}

#[tokio::test]
async fn a_task_ends_at_its_deadline_and_one_that_cannot_fit_is_refused_with_numbers() {
    let pipeline = pipeline(
        |_| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(())
        },
        2000,
    );
    let many = score::Request {
        texts: vec!["the ".repeat(62); 300],
        ..score::Request::default()
    };
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = pipeline.run(pipeline.admit().unwrap(), many, deadline).await.err();
    assert!(matches!(error, Some(Error::Timeout(_))), "{error:?}");
    let beyond = score::Request {
        texts: vec!["the ".repeat(62); 1100],
        ..score::Request::default()
    };
    let error = pipeline
        .run(pipeline.admit().unwrap(), beyond, Deadline::never())
        .await
        .err();
    let Some(Error::Input(InputError::TooMuchComputation { tokens, tokens_max, .. })) = error else {
        panic!("{error:?}")
    };
    assert!(tokens > tokens_max);
}

#[tokio::test]
async fn tasks_that_are_too_long_for_their_deadline_do_not_make_the_server_unready() {
    // The first piece of each request is 16 batches, which take no time; later batches are slow.
    let batches = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let pipeline = pipeline(
        move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) >= 20 {
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        },
        400,
    );
    for _ in 0..9 {
        batches.store(0, Ordering::Relaxed);
        let long = score::Request {
            texts: vec!["the ".repeat(62); 20],
            ..score::Request::default()
        };
        let deadline = Deadline::after(Duration::from_millis(800));
        let scored = pipeline.run(pipeline.admit().unwrap(), long, deadline).await;
        assert!(
            matches!(scored.as_ref().err(), Some(Error::Timeout(_))),
            "{:?}",
            scored.err()
        );
    }
    let _waiting = pipeline.admit().unwrap();
    assert!(pipeline.is_ready());
    assert_eq!(pipeline.progress.timeouts(), 0);
}

#[tokio::test]
async fn lists_of_which_a_part_is_computed_do_not_make_the_server_unready() {
    let slow = |_: &Batch| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    };
    let pipeline = pipeline(slow, 400);
    let text = format!("{}[MASK]", "the ".repeat(60));
    let lists = [vec![text.as_str(); 150], vec![text.as_str(); 300]];
    // The texts of the second wait for places in the queue.
    for list in lists {
        let error = run(&pipeline, &list, Deadline::after(Duration::from_millis(700))).await;
        assert!(
            matches!(error.as_ref().err(), Some(Error::Timeout(_))),
            "{:?}",
            error.err()
        );
    }
    assert_eq!(pipeline.progress.timeouts(), 0);
}

#[tokio::test]
async fn large_requests_are_planned_one_after_the_other_and_small_ones_at_once() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let (mut first, mut second, mut small) = (
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
    );
    let never = Deadline::never();
    pipeline.reserve_planning(&mut first, usize::MAX, never).await.unwrap();
    let soon = Deadline::after(Duration::from_millis(20));
    let waited = pipeline.reserve_planning(&mut second, 100_000, soon).await;
    assert_eq!(waited, Err(Error::Timeout(soon.timeout)));
    pipeline.reserve_planning(&mut small, 1000, soon).await.unwrap();
    // The share ends with the plan, not with the answer.
    let scored = pipeline.run(first, request(&["[MASK]"]), never).await.unwrap();
    pipeline.reserve_planning(&mut second, 100_000, never).await.unwrap();
    drop(scored);
}

#[tokio::test]
async fn a_paragraph_does_not_wait_for_large_requests_that_wait_to_be_planned() {
    let pipeline = pipeline(|_| Ok(()), 8);
    let (mut first, mut second, mut paragraph) = (
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
        pipeline.admit().unwrap(),
    );
    // The smallest body that takes more than half of the memory.
    let half = (1..)
        .map(|kibibytes: usize| kibibytes << 10)
        .find(|&bytes| pipeline.planning.share_of(bytes) > 0.5);
    let half = half.unwrap();
    let soon = Deadline::after(Duration::from_secs(5));
    pipeline.reserve_planning(&mut first, half, soon).await.unwrap();
    let waiting = tokio::spawn({
        let pipeline = Arc::clone(&pipeline);
        async move { pipeline.reserve_planning(&mut second, half, Deadline::never()).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    pipeline.reserve_planning(&mut paragraph, 1100, soon).await.unwrap();
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap().unwrap();
}
