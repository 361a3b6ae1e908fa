//! The engine on paused time, with a model that only counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Item, Queue, Reply};
use super::spans::Spans;
use super::{Engine, EngineError, Health, Input, Limits, watch, worker};
use crate::bert::{MaskedLm, PackedBatch, PredictError, Selection, TokenScore};

mod failures;
mod overlap;
mod queue;
mod waiting;
mod watching;
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

fn many(count: u32) -> (Vec<Item>, Vec<tokio::sync::oneshot::Receiver<Reply>>) {
    (0..count).map(|id| item(id, 1, MINUTE)).unzip()
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
