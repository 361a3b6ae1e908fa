//! The engine on paused time, with a model that only counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Item, Queue, Reply};
use super::spans::Spans;
use super::{Engine, EngineError, Health, Input, Limits, worker};
use crate::bert::{MaskedLm, PackedBatch, PredictError, Selection, TokenScore};

const MINUTE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        batch_tokens_max: 100,
        batch_size_max: 4,
        batch_delay: Duration::ZERO,
        queue_size: 8,
    }
}

/// A text of `tokens` tokens whose first id tells it from others; its mask is the first token.
fn input(id: u32, tokens: usize) -> Input {
    let mut input_ids = vec![0; tokens];
    input_ids[0] = id;
    Input {
        input_ids,
        mask_positions: vec![0],
        selection: Selection::TopK(1),
    }
}

/// Answers each text with its own id; panics or fails on the ids it is told to.
#[derive(Clone, Default)]
struct Echo {
    /// The first ids of each batch's texts.
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
    panics_on: Option<u32>,
    fails_on: Option<u32>,
}

impl MaskedLm for Echo {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        let ids: Vec<u32> = batch
            .queries()
            .iter()
            .map(|query| batch.input_ids()[query.position])
            .collect();
        self.batches.lock().unwrap().push(ids.clone());
        assert!(!ids.iter().any(|&id| Some(id) == self.panics_on), "told to panic");
        if ids.iter().any(|&id| Some(id) == self.fails_on) {
            return Err(PredictError::NotFinite);
        }
        Ok(ids
            .into_iter()
            .map(|token| vec![TokenScore { token, score: 1.0 }])
            .collect())
    }
}

fn item(id: u32, tokens: usize, timeout: Duration) -> (Item, tokio::sync::oneshot::Receiver<Reply>) {
    let (reply, receiver) = tokio::sync::oneshot::channel();
    let queued_at = Instant::now();
    let item = Item {
        input: input(id, tokens),
        queued_at,
        deadline: queued_at + timeout,
        reply,
        spans: Spans::default(),
    };
    (item, receiver)
}

fn ids(batch: &[Item]) -> Vec<u32> {
    batch.iter().map(|item| item.input.input_ids[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn batches_keep_both_limits_and_the_order() {
    let queue = Queue::new(limits());
    let mut receivers = Vec::new();
    for (id, tokens) in [(1, 60), (2, 40), (3, 1), (4, 99), (5, 1), (6, 1), (7, 1), (8, 1)] {
        let (item, receiver) = item(id, tokens, MINUTE);
        queue.push(vec![item]).unwrap();
        receivers.push(receiver);
    }
    let started_at = Instant::now();
    for expected in [vec![1, 2], vec![3, 4], vec![5, 6, 7, 8]] {
        assert_eq!(ids(&queue.next_batch().await.unwrap()), expected);
    }
    assert_eq!(Instant::now(), started_at, "nothing waits for company by default");
    assert_eq!(queue.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_delay_is_one_deadline_from_the_first_item() {
    let delay = Duration::from_millis(10);
    let queue = Arc::new(Queue::new(Limits {
        batch_delay: delay,
        ..limits()
    }));
    let started_at = Instant::now();
    let (first, _first) = item(1, 1, MINUTE);
    queue.push(vec![first]).unwrap();
    let theirs = Arc::clone(&queue);
    let late = tokio::spawn(async move {
        let mut receivers = Vec::new();
        for id in [2, 3] {
            tokio::time::sleep(Duration::from_millis(6)).await;
            let (item, receiver) = item(id, 1, MINUTE);
            theirs.push(vec![item]).unwrap();
            receivers.push(receiver);
        }
        receivers
    });
    // The worker comes late, which moves nothing: the first has waited 4 ms already. The second comes in time
    // at 6 ms and moves nothing either; the third, at 12 ms, is too late.
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1, 2]);
    assert_eq!(started_at.elapsed(), delay);
    let _receivers = late.await.unwrap();
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_leaves_at_once() {
    let queue = Queue::new(Limits {
        batch_delay: MINUTE,
        ..limits()
    });
    let mut receivers = Vec::new();
    for id in 1..=4 {
        let (item, receiver) = item(id, 1, MINUTE);
        queue.push(vec![item]).unwrap();
        receivers.push(receiver);
    }
    let started_at = Instant::now();
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(Instant::now(), started_at);
}

#[tokio::test(start_paused = true)]
async fn expired_and_abandoned_items_make_no_batch() {
    let queue = Queue::new(limits());
    let (expired, _expired) = item(1, 1, Duration::from_millis(5));
    let (abandoned, receiver) = item(2, 1, MINUTE);
    let (wanted, _wanted) = item(3, 1, MINUTE);
    queue.push(vec![expired, abandoned, wanted]).unwrap();
    drop(receiver);
    tokio::time::advance(Duration::from_millis(5)).await;
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [3]);
    assert_eq!(queue.stats.abandoned.get(), 2);
    assert_eq!(queue.waiting(), (0, 0));
}

fn many(count: u32) -> (Vec<Item>, Vec<tokio::sync::oneshot::Receiver<Reply>>) {
    (0..count).map(|id| item(id, 1, MINUTE)).unzip()
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_one_and_many_alike() {
    let queue = Queue::new(limits());
    let (items, mut seven) = many(7);
    queue.push(items).unwrap();
    // One place is left, which does for a list as it would for one text: all of it or nothing.
    let (items, mut five) = many(5);
    queue.push(items).unwrap();
    assert_eq!(queue.waiting(), (12, 12));
    for count in [1, 5] {
        let (items, _refused) = many(count);
        assert_eq!(queue.push(items), Err(EngineError::QueueFull));
    }
    assert_eq!(queue.waiting(), (12, 12));
    assert_eq!(queue.stats.rejected.get(), 2);
    // Room that somebody gave up is room.
    seven.truncate(3);
    five.truncate(4);
    let (items, _accepted) = many(1);
    queue.push(items).unwrap();
    assert_eq!(queue.waiting(), (8, 8));
    let (items, _never) = many(9);
    let error = EngineError::TooManyTexts {
        texts: 9,
        queue_size: 8,
    };
    assert_eq!(queue.push(items), Err(error));
    let (too_long, _never) = item(1, 101, MINUTE);
    let error = EngineError::TooManyTokens { tokens: 101, max: 100 };
    assert_eq!(queue.push(vec![too_long]), Err(error));
    assert_eq!(queue.waiting(), (8, 8));
}

#[tokio::test(start_paused = true)]
async fn who_prepares_takes_a_place() {
    let queue = Arc::new(Queue::new(limits()));
    let (items, _waiting) = many(6);
    queue.push(items).unwrap();
    let admitted = (queue.admit().unwrap(), queue.admit().unwrap());
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    assert_eq!(queue.stats.rejected.get(), 1);
    drop(admitted.0);
    let again = queue.admit().unwrap();
    drop((again, admitted.1));
    // Those who were let in found a place, whatever others brought meanwhile.
    let (items, _waiting_too) = many(2);
    queue.push(items).unwrap();
    assert_eq!(queue.admit().err(), Some(EngineError::QueueFull));
    queue.close();
    assert_eq!(queue.admit().err(), Some(EngineError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_single_texts_share_a_full_queue() {
    // Four clients with lists of eight and 36 with single texts, who all ask again at once when they are
    // refused, against a model that takes its time: eight may wait, so somebody is refused all the time.
    let model = Scripted(|_: &[u32]| {
        std::thread::sleep(Duration::from_micros(300));
        Ok(())
    });
    let engine = Arc::new(Engine::start(Box::new(model), limits()).unwrap());
    // Until each was answered once; on a busy machine that takes longer, and a client that starves never is.
    let (soonest, latest) = (Duration::from_millis(400), Duration::from_secs(20));
    let started_at = Instant::now();
    let unanswered = Arc::new(AtomicUsize::new(40));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..40 {
        let (engine, unanswered) = (Arc::clone(&engine), Arc::clone(&unanswered));
        clients.spawn(async move {
            let texts = if client < 4 { 8 } else { 1 };
            let (mut answered, mut refused) = (0, 0);
            let is_over = |gone: Duration| gone > latest || (gone > soonest && unanswered.load(Ordering::Relaxed) == 0);
            while !is_over(started_at.elapsed()) {
                match engine.predict(vec![input(1, 1); texts], Instant::now() + MINUTE).await {
                    Ok((scores, _)) => {
                        assert_eq!(scores.len(), texts);
                        answered += 1;
                        if answered == 1 {
                            unanswered.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, EngineError::QueueFull);
                        refused += 1;
                        tokio::time::sleep(Duration::from_micros(100)).await;
                    }
                }
            }
            (texts, answered, refused)
        });
    }
    let mut refusals = 0;
    while let Some(of_one) = clients.join_next().await {
        let (texts, answered, refused) = of_one.unwrap();
        assert!(
            answered > 0,
            "a client with {texts} texts was never answered, {refused} times refused"
        );
        refusals += refused;
    }
    assert!(refusals > 0, "the queue was never full");
    assert_eq!(engine.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_serves_what_waits_and_ends() {
    let queue = Queue::new(limits());
    let (waiting, _waiting) = item(1, 1, MINUTE);
    queue.push(vec![waiting]).unwrap();
    queue.close();
    let (late, _late) = item(2, 1, MINUTE);
    assert_eq!(queue.push(vec![late]), Err(EngineError::Stopped));
    assert_eq!(ids(&queue.next_batch().await.unwrap()), [1]);
    assert!(queue.next_batch().await.is_none());
}

/// Runs the worker over `count` texts that wait already; gives each text's reply.
async fn run_worker(model: &Echo, count: u32) -> Vec<Result<u32, EngineError>> {
    let queue = Queue::new(limits());
    let (items, receivers): (Vec<_>, Vec<_>) = (1..=count).map(|id| item(id, 1, MINUTE)).unzip();
    queue.push(items).unwrap();
    queue.close();
    worker::run(&queue, Box::new(model.clone())).await;
    let mut replies = Vec::new();
    for receiver in receivers {
        replies.push(receiver.await.unwrap().map(|(scores, _)| scores[0][0].token));
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn each_text_gets_its_own_answer() {
    let replies = run_worker(&Echo::default(), 6).await;
    assert_eq!(replies, (1..=6).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_panic_or_an_error_fails_the_culprit_alone() {
    for model in [
        Echo {
            panics_on: Some(2),
            ..Echo::default()
        },
        Echo {
            fails_on: Some(2),
            ..Echo::default()
        },
    ] {
        let replies = run_worker(&model, 6).await;
        for (reply, id) in replies.iter().zip(1..) {
            match id {
                2 => assert!(matches!(reply, Err(EngineError::Model(_))), "{reply:?}"),
                id => assert_eq!(*reply, Ok(id)),
            }
        }
        let batches = model.batches.lock().unwrap().clone();
        assert_eq!(
            batches,
            [vec![1, 2, 3, 4], vec![1], vec![2], vec![3], vec![4], vec![5, 6]]
        );
    }
}

/// Does what a test says with the ids of each batch's texts.
struct Scripted<F>(F);

impl<F: FnMut(&[u32]) -> Result<(), PredictError> + Send> MaskedLm for Scripted<F> {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        let queries = batch.queries().iter();
        let ids: Vec<u32> = queries.map(|query| batch.input_ids()[query.position]).collect();
        (self.0)(&ids)?;
        Ok(ids.iter().map(|_| vec![]).collect())
    }
}

/// What each of four texts that waited got from a model that does `script`.
async fn four_replies(
    queue: &Queue,
    timeout: impl Fn(u32) -> Duration,
    script: impl FnMut(&[u32]) -> Result<(), PredictError> + Send + 'static,
) -> Vec<Option<Result<(), EngineError>>> {
    let (items, receivers): (Vec<_>, Vec<_>) = (1..=4).map(|id| item(id, 1, timeout(id))).unzip();
    queue.push(items).unwrap();
    queue.close();
    worker::run(queue, Box::new(Scripted(script))).await;
    let mut replies = Vec::new();
    for receiver in receivers {
        replies.push(receiver.await.ok().map(|reply| reply.map(|_| ())));
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_not_tried_again_for_those_who_left() {
    let queue = Queue::new(limits());
    let passes = Arc::new(Mutex::new(Vec::new()));
    let (items, receivers): (Vec<_>, Vec<_>) = (1..=4).map(|id| item(id, 1, MINUTE)).unzip();
    queue.push(items).unwrap();
    queue.close();
    let theirs = Arc::clone(&passes);
    let mut receivers = Some(receivers);
    let script = move |ids: &[u32]| {
        theirs.lock().unwrap().push(ids.to_vec());
        match ids.len() {
            1 => Ok(()),
            _ => {
                // All clients leave while the batch runs.
                receivers.take();
                Err(PredictError::NotFinite)
            }
        }
    };
    worker::run(&queue, Box::new(Scripted(script))).await;
    assert_eq!(*passes.lock().unwrap(), [vec![1, 2, 3, 4]]);
    assert_eq!(queue.stats.abandoned.get(), 4);
    assert_eq!(queue.stats.failed.get(), 0);

    // The same for deadlines that pass meanwhile: the pass below takes 30 ms of real time.
    let queue = Queue::new(limits());
    let script = |ids: &[u32]| match ids.len() {
        1 => Ok(()),
        _ => {
            std::thread::sleep(Duration::from_millis(30));
            Err(PredictError::NotFinite)
        }
    };
    tokio::time::resume();
    let timeout = |id| match id {
        2 => Duration::from_millis(20),
        _ => MINUTE,
    };
    let replies = four_replies(&queue, timeout, script).await;
    assert_eq!(replies, [Some(Ok(())), None, Some(Ok(())), Some(Ok(()))]);
    assert_eq!(queue.stats.batches.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_ends_the_worker_and_leaves_nobody_waiting() {
    let lost = || PredictError::Device("the device is lost".to_owned());
    let queue = Queue::new(limits());
    let replies = four_replies(&queue, |_| MINUTE, move |_| Err(lost())).await;
    for reply in replies {
        assert!(matches!(reply, Some(Err(EngineError::Model(_)))), "{reply:?}");
    }
    assert_eq!(queue.stats.batches.get(), 1, "a lost device is not asked again");
    assert_eq!(queue.stats.failed.get(), 4);

    // While texts are tried singly: the first is answered, the second loses the device, nobody waits in vain.
    let queue = Queue::new(limits());
    let script = move |ids: &[u32]| match ids {
        [1] => Ok(()),
        [_] => Err(lost()),
        _ => Err(PredictError::NotFinite),
    };
    let replies = four_replies(&queue, |_| MINUTE, script).await;
    assert_eq!(replies[0], Some(Ok(())));
    for reply in &replies[1..] {
        assert!(matches!(reply, Some(Err(EngineError::Model(_)))), "{reply:?}");
    }
    assert_eq!(queue.stats.batches.get(), 3);
    assert_eq!(queue.stats.broken().get().unwrap(), "the device is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_is_told_and_the_rest_is_refused() {
    let (begun, has_begun) = channel();
    let (may_end, wait) = channel::<()>();
    let model = Scripted(move |_: &[u32]| {
        begun.send(()).unwrap();
        wait.recv().unwrap();
        Err(PredictError::Device("the device is lost".to_owned()))
    });
    let engine = Arc::new(Engine::start(Box::new(model), limits()).unwrap());
    let ask = |id| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            engine
                .predict(vec![input(id, 1)], Instant::now() + MINUTE)
                .await
                .map(|_| ())
        })
    };
    let running = ask(1);
    has_begun.recv().unwrap();
    let waiting = ask(2);
    while engine.waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.health(), Health::Ready);
    may_end.send(()).unwrap();
    assert!(matches!(running.await.unwrap(), Err(EngineError::Model(_))));
    assert_eq!(waiting.await.unwrap(), Err(EngineError::Stopped));
    assert_eq!(engine.broken().await, "the device is lost");
    assert_eq!(engine.health(), Health::Broken("the device is lost".to_owned()));
    assert_eq!(ask(3).await.unwrap(), Err(EngineError::Stopped));
    assert_eq!(engine.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failing_model_is_tried_until_it_answers_again() {
    let queue = Arc::new(Queue::new(limits()));
    let probes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&probes);
    let script = move |ids: &[u32]| match ids {
        [0] if seen.fetch_add(1, Ordering::SeqCst) == 1 => Ok(()),
        _ => Err(PredictError::NotFinite),
    };
    let theirs = Arc::clone(&queue);
    let running = tokio::spawn(async move { worker::run(&theirs, Box::new(Scripted(script))).await });
    for failures in 1..=3 {
        assert!(queue.stats.is_healthy(), "before failure {failures}");
        // One batch is one failure, however many texts it has.
        let (items, receivers): (Vec<_>, Vec<_>) = (1..=4).map(|id| item(id, 1, MINUTE)).unzip();
        queue.push(items).unwrap();
        for receiver in receivers {
            assert!(receiver.await.unwrap().is_err());
        }
    }
    tokio::task::yield_now().await;
    assert!(!queue.stats.is_healthy());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!queue.stats.is_healthy(), "the first probe failed");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(queue.stats.is_healthy());
    tokio::time::sleep(MINUTE).await;
    assert_eq!(probes.load(Ordering::SeqCst), 2, "a healthy model is left alone");
    queue.close();
    running.await.unwrap();
}

/// Says that a batch has begun and waits until it may end.
struct Gated {
    begun: Sender<()>,
    may_end: Receiver<()>,
    passes: Arc<AtomicUsize>,
}

impl MaskedLm for Gated {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        self.passes.fetch_add(1, Ordering::SeqCst);
        self.begun.send(()).unwrap();
        self.may_end.recv().unwrap();
        Ok(batch.queries().iter().map(|_| vec![]).collect())
    }
}

/// An engine whose first batch is running and does not end before it is told to.
struct Busy {
    engine: Arc<Engine>,
    may_end: Sender<()>,
    begun: Receiver<()>,
    passes: Arc<AtomicUsize>,
    first: tokio::task::JoinHandle<Result<usize, EngineError>>,
}

fn busy_engine() -> Busy {
    let (begun, has_begun) = channel();
    let (may_end, wait) = channel();
    let passes = Arc::new(AtomicUsize::new(0));
    let model = Gated {
        begun,
        may_end: wait,
        passes: Arc::clone(&passes),
    };
    let engine = Arc::new(Engine::start(Box::new(model), limits()).unwrap());
    let theirs = Arc::clone(&engine);
    let first = tokio::spawn(async move {
        let answer = theirs.predict(vec![input(1, 1)], Instant::now() + MINUTE).await;
        answer.map(|(scores, _)| scores.len())
    });
    Busy {
        engine,
        may_end,
        begun: has_begun,
        passes,
        first,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_queue_costs_no_forward_pass() {
    let busy = busy_engine();
    busy.begun.recv().unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = busy.engine.predict(vec![input(2, 1)], deadline).await.unwrap_err();
    assert_eq!(error, EngineError::Deadline);
    assert_eq!(busy.engine.stats().expired.get(), 1);
    busy.may_end.send(()).unwrap();
    assert_eq!(busy.first.await.unwrap(), Ok(1));
    let engine = Arc::clone(&busy.engine);
    tokio::task::spawn_blocking(move || engine.stop()).await.unwrap();
    assert_eq!(busy.passes.load(Ordering::SeqCst), 1);
    assert_eq!(busy.engine.waiting(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_costs_no_forward_pass() {
    let busy = busy_engine();
    busy.begun.recv().unwrap();
    let engine = Arc::clone(&busy.engine);
    let gone = tokio::spawn(async move { engine.predict(vec![input(2, 1)], Instant::now() + MINUTE).await.is_ok() });
    while busy.engine.waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    busy.may_end.send(()).unwrap();
    assert_eq!(busy.first.await.unwrap(), Ok(1));
    let engine = Arc::clone(&busy.engine);
    tokio::task::spawn_blocking(move || engine.stop()).await.unwrap();
    assert_eq!(busy.passes.load(Ordering::SeqCst), 1);
    assert_eq!(busy.engine.stats().abandoned.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_down_with_repeated_failures_and_up_with_a_success() {
    let model = Echo {
        panics_on: Some(9),
        ..Echo::default()
    };
    let engine = Engine::start(Box::new(model), limits()).unwrap();
    for failures in 1..=3 {
        assert!(engine.is_ready(), "before failure {failures}");
        let answer = engine.predict(vec![input(9, 1)], Instant::now() + MINUTE).await;
        assert!(matches!(answer, Err(EngineError::Model(_))));
    }
    assert!(!engine.is_ready());
    engine
        .predict(vec![input(1, 1)], Instant::now() + MINUTE)
        .await
        .unwrap();
    assert!(engine.is_ready());
    let engine = tokio::task::spawn_blocking(move || {
        engine.stop();
        engine
    });
    assert!(!engine.await.unwrap().is_ready());
}

/// The engine's workers as tasks on paused time, each with a model of its own.
fn start_workers(models: Vec<Box<dyn MaskedLm>>) -> (Arc<Queue>, tokio::task::JoinSet<()>) {
    let mut queue = Queue::new(limits());
    queue.stats = super::Stats::of_workers(models.len());
    let queue = Arc::new(queue);
    let mut workers = tokio::task::JoinSet::new();
    for model in models {
        let queue = Arc::clone(&queue);
        workers.spawn(async move { worker::run(&queue, model).await });
    }
    (queue, workers)
}

/// Asks one text, and says whether it was answered.
async fn asked(queue: &Queue, id: u32) -> bool {
    let (item, receiver) = item(id, 1, MINUTE);
    queue.push(vec![item]).unwrap();
    receiver.await.unwrap().is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_fails_leaves_the_texts_to_the_others() {
    let works = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tries = Arc::new(AtomicUsize::new(0));
    let (theirs, counted) = (Arc::clone(&works), Arc::clone(&tries));
    let bad = Scripted(move |_: &[u32]| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert!(theirs.load(Ordering::SeqCst), "told to panic");
        Ok(())
    });
    let (queue, mut workers) = start_workers(vec![Box::new(bad), Box::new(Scripted(|_: &[u32]| Ok(())))]);
    let mut failed = 0;
    for id in 1..=40 {
        failed += usize::from(!asked(&queue, id).await);
        assert!(queue.stats.is_healthy(), "one worker answers");
    }
    assert_eq!(failed, 3, "after three failures it stands back");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(tries.load(Ordering::SeqCst), 5, "it is tried every five seconds");
    works.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in 1..=10 {
        assert!(asked(&queue, id).await);
    }
    assert!(tries.load(Ordering::SeqCst) > 7, "it takes texts again");
    queue.close();
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_workers_fail_the_engine_does() {
    let fails = || -> Box<dyn MaskedLm> { Box::new(Scripted(|_: &[u32]| Err(PredictError::NotFinite))) };
    let (queue, mut workers) = start_workers(vec![fails(), fails()]);
    for id in 1..=6 {
        assert!(queue.stats.is_healthy(), "before failure {id}");
        assert!(!asked(&queue, id).await);
    }
    assert!(!queue.stats.is_healthy());
    // Nobody is left to answer, so whoever asks is told at once and not after a probe.
    let before = Instant::now();
    assert!(!asked(&queue, 7).await);
    assert_eq!(before.elapsed(), Duration::ZERO);
    queue.close();
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_ends_all_workers() {
    let lost = Scripted(|_: &[u32]| Err(PredictError::Device("the device is lost".to_owned())));
    let (queue, mut workers) = start_workers(vec![Box::new(lost), Box::new(Scripted(|_: &[u32]| Ok(())))]);
    while queue.is_open() {
        asked(&queue, 1).await;
        tokio::task::yield_now().await;
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(queue.stats.broken().get().unwrap(), "the device is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_run_at_the_same_time_and_a_stop_drains_them_all() {
    let (begun, has_begun) = channel();
    let passes = Arc::new(AtomicUsize::new(0));
    let mut gates = Vec::new();
    let mut models: Vec<Box<dyn MaskedLm>> = Vec::new();
    for _ in 0..2 {
        let (may_end, wait) = channel();
        gates.push(may_end);
        models.push(Box::new(Gated {
            begun: begun.clone(),
            may_end: wait,
            passes: Arc::clone(&passes),
        }));
    }
    let engine = Arc::new(Engine::start_workers(models, limits()).unwrap());
    assert_eq!(engine.workers(), 2);
    let ask = |id| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move { engine.predict(vec![input(id, 1)], Instant::now() + MINUTE).await })
    };
    let mut asking = Vec::new();
    for id in 1..=2 {
        asking.push(ask(id));
        // The second begins though the first has not ended.
        has_begun.recv().unwrap();
    }
    asking.push(ask(3));
    while engine.waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    let stopping = Arc::clone(&engine);
    let stop = tokio::task::spawn_blocking(move || stopping.stop());
    for gate in &gates {
        gate.send(()).unwrap();
        gate.send(()).unwrap();
    }
    stop.await.unwrap();
    for answer in asking {
        assert!(answer.await.unwrap().is_ok(), "accepted, so answered");
    }
    assert_eq!(passes.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_becomes_full_leaves_in_that_moment() {
    // Four texts are full; so are 100 tokens, and so is what the next text would not fit into.
    for (tokens, expected) in [
        (&[1, 1, 1, 1][..], &[1, 2, 3, 4][..]),
        (&[60, 40], &[1, 2]),
        (&[60, 41], &[1]),
    ] {
        let queue = Arc::new(Queue::new(Limits {
            batch_delay: MINUTE,
            ..limits()
        }));
        let (theirs, tokens) = (Arc::clone(&queue), tokens.to_vec());
        let arrivals = tokio::spawn(async move {
            let mut receivers = Vec::new();
            for (id, tokens) in (1..).zip(tokens) {
                tokio::time::sleep(Duration::from_millis(7)).await;
                let (item, receiver) = item(id, tokens, 2 * MINUTE);
                theirs.push(vec![item]).unwrap();
                receivers.push(receiver);
            }
            (Instant::now(), receivers)
        });
        let batch = queue.next_batch().await.unwrap();
        let left_at = Instant::now();
        let (last_at, _receivers) = arrivals.await.unwrap();
        assert_eq!(ids(&batch), expected);
        assert_eq!(left_at, last_at, "{expected:?}");
    }
}

/// Whatever comes when, to a worker that is free: no text waits longer than the delay, none leaves sooner but with
/// a full batch, and all leave in order.
#[tokio::test(start_paused = true)]
async fn random_arrivals_leave_with_the_delay_or_a_full_batch() {
    let delay = Duration::from_millis(10);
    let mut dice = 1_u64;
    // A linear congruential generator: MMIX's constants.
    let mut dice = move |sides: u64| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let (mut full, mut late) = (0, 0);
    for _ in 0..200 {
        let limits = Limits {
            batch_delay: delay,
            queue_size: 1000,
            ..limits()
        };
        let queue = Arc::new(Queue::new(limits.clone()));
        let arrivals: Vec<(u64, usize)> = (0..30).map(|_| (dice(6), 1 + dice(50) as usize)).collect();
        let theirs = Arc::clone(&queue);
        let pushing = tokio::spawn(async move {
            let mut receivers = Vec::new();
            for (id, (pause, tokens)) in (0..).zip(arrivals) {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let (item, receiver) = item(id, tokens, MINUTE);
                theirs.push(vec![item]).unwrap();
                receivers.push(receiver);
            }
            receivers
        });
        let mut next = 0;
        while next < 30 {
            let batch = queue.next_batch().await.unwrap();
            let first = ids(&batch)[0];
            assert_eq!(first, next, "out of order");
            next += batch.len() as u32;
            let waited = batch[0].queued_at.elapsed();
            assert!(waited <= delay, "waited for {waited:?}");
            if waited == delay {
                late += 1;
                continue;
            }
            // Sooner only because no more fits.
            let tokens: usize = batch.iter().map(|item| item.input.input_ids.len()).sum();
            let (_, behind) = queue.waiting();
            let is_full = batch.len() == limits.batch_size_max || tokens + behind >= limits.batch_tokens_max;
            assert!(
                is_full,
                "{} texts of {tokens} tokens left after {waited:?}",
                batch.len()
            );
            full += 1;
        }
        pushing.await.unwrap();
    }
    assert!(full > 100 && late > 100, "{full} full, {late} late");
}
