//! The engine on paused time, with a model that only counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Entry, Queue, Reply};
use super::spans::RequestSpans;
use super::state::EngineState;
use super::{Engine, EngineError, Health, Limits, watchdog, worker};
use crate::lm::{Batch, DemandGuard, MaskedLm, ModelError, Scores, Select, Sequence, TokenScore};

mod batches;
mod failures;
mod hanging;
mod queue;
mod waiting;
mod workers;

const MINUTE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        batch_tokens_max: 100,
        batch_size_max: 4,
        batch_delay: Duration::ZERO,
        queue_size: 8,
    }
}

fn queue(limits: Limits) -> Arc<Queue> {
    Arc::new(Queue::new(limits))
}

/// The shared state of an engine with one worker, without the worker.
fn parts(limits: Limits) -> (Arc<Queue>, Arc<EngineState>) {
    (queue(limits), Arc::new(EngineState::new(1)))
}

/// Admits the entries as one request and queues them.
fn push(queue: &Arc<Queue>, entries: Vec<Entry>) -> Result<(), EngineError> {
    queue.admit()?.push(entries)
}

/// Admits the sequences as one request and waits for their scores.
async fn submit(engine: &Engine, sequences: Vec<Arc<Sequence>>, deadline: Instant) -> Result<Vec<Scores>, EngineError> {
    let admission = engine.admit()?;
    let (scores, _) = engine.submit(admission, &sequences, deadline).await?;
    Ok(scores)
}

/// Forward passes so far.
fn batches(queue: &Queue) -> u64 {
    queue.stats.batch_sequences.snapshot().count()
}

/// A sequence of `tokens` tokens with one mask, the first token, with an id of its own.
fn sequence(id: u32, tokens: usize) -> Arc<Sequence> {
    let mut token_ids = vec![0; tokens];
    token_ids[0] = id;
    Arc::new(Sequence::new(token_ids, [0], Select::TopK(1)))
}

/// The token at each readout row.
fn ids_of(batch: &Batch) -> Vec<u32> {
    let rows = batch.readout_rows().iter();
    rows.map(|&row| batch.token_ids()[row as usize]).collect()
}

/// A token that is certain, as the scores of a sequence with one readout position.
fn certain(token: u32) -> Vec<Vec<TokenScore>> {
    vec![vec![TokenScore { token, log_prob: 0.0 }]]
}

/// Scores without a token, for as many sequences with one readout position.
fn no_tokens(sequences: usize) -> Vec<Scores> {
    vec![vec![vec![]]; sequences]
}

/// Answers each text with its own id; panics or fails on the given ids.
#[derive(Clone, Default)]
struct Echo {
    /// The first ids of each batch's texts.
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
    panics_on: Option<u32>,
    fails_on: Option<u32>,
}

impl MaskedLm for Echo {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        let ids = ids_of(&batch);
        self.batches.lock().unwrap().push(ids.clone());
        assert!(!ids.iter().any(|&id| Some(id) == self.panics_on), "on purpose");
        if ids.iter().any(|&id| Some(id) == self.fails_on) {
            return Err(ModelError::NotFinite);
        }
        Ok(ids.into_iter().map(certain).collect())
    }
}

static NEXT_REQUEST: AtomicU64 = AtomicU64::new(0);

/// A sequence that is a request by itself.
fn entry(id: u32, tokens: usize, timeout: Duration) -> (Entry, tokio::sync::oneshot::Receiver<Reply>) {
    let (reply, receiver) = tokio::sync::oneshot::channel();
    let queued_at = Instant::now();
    let entry = Entry {
        request: NEXT_REQUEST.fetch_add(1, Ordering::Relaxed),
        place: None,
        sequence: sequence(id, tokens),
        cost: tokens,
        queued_at,
        deadline: queued_at + timeout,
        reply,
        demand: DemandGuard::default().demand(),
        spans: RequestSpans::default(),
    };
    (entry, receiver)
}

fn ids(batch: &[Entry]) -> Vec<u32> {
    batch.iter().map(|entry| entry.sequence.token_ids[0]).collect()
}

/// The sequences 0 to `count` of one request.
fn many(count: u32) -> (Vec<Entry>, Vec<tokio::sync::oneshot::Receiver<Reply>>) {
    let (mut entries, receivers): (Vec<_>, Vec<_>) = (0..count).map(|id| entry(id, 1, MINUTE)).unzip();
    let request = entries.first().map_or(0, |entry| entry.request);
    entries.iter_mut().for_each(|entry| entry.request = request);
    (entries, receivers)
}

/// Does what a test says with the ids of each batch's texts.
struct Scripted<F>(F);

impl<F: FnMut(&[u32]) -> Result<(), ModelError> + Send> MaskedLm for Scripted<F> {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        let ids = ids_of(&batch);
        (self.0)(&ids)?;
        Ok(no_tokens(ids.len()))
    }
}

/// Says that a batch has begun and waits until it may end.
struct Gated {
    begun: Sender<()>,
    may_end: Receiver<()>,
    passes: Arc<AtomicUsize>,
}

impl MaskedLm for Gated {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        self.passes.fetch_add(1, Ordering::SeqCst);
        self.begun.send(()).unwrap();
        self.may_end.recv().unwrap();
        Ok(no_tokens(batch.sequences()))
    }
}
