//! What the engine counts, for metrics and for readiness. Plain atomics: reading never waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::watch::Clock;

const NO_PANIC: &str = "nobody panics while holding the clocks";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a value was at most each of some bounds: powers of two from 1 on.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; Self::BOUNDS + 1],
    sum: Counter,
}

impl Histogram {
    /// The largest bound is 2^14.
    const BOUNDS: usize = 15;

    pub(super) fn observe(&self, value: u64) {
        let bound = value.max(1).next_power_of_two().trailing_zeros() as usize;
        self.counts[bound.min(Self::BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum.add(value);
    }

    /// Its values now.
    pub fn buckets(&self) -> Buckets {
        let bound = |index| match index {
            Self::BOUNDS => f64::INFINITY,
            index => (1_u64 << index) as f64,
        };
        let counts = self.counts.iter().enumerate();
        Buckets {
            counts: counts
                .map(|(index, count)| (bound(index), count.load(Ordering::Relaxed)))
                .collect(),
            sum: self.sum.get(),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::default()),
            sum: Counter::default(),
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Upper bounds, ascending up to infinity, and how many values lie above the bound before and up to this one.
    pub counts: Vec<(f64, u64)>,
    /// The sum of all values.
    pub sum: u64,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Forward passes.
    pub batches: Counter,
    /// Texts in them.
    pub texts: Counter,
    /// Tokens in them.
    pub tokens: Counter,
    /// Texts of each forward pass.
    pub batch_texts: Histogram,
    /// Tokens of each forward pass.
    pub batch_tokens: Histogram,
    /// Requests whose deadline passed.
    pub expired: Counter,
    /// Texts dropped before their forward pass: nobody waited any more.
    pub abandoned: Counter,
    /// Requests refused because the queue was full.
    pub rejected: Counter,
    /// Texts that the model failed on.
    pub failed: Counter,
    /// How many take from the queue; a default is one.
    workers: usize,
    /// Workers whose last batches all failed.
    failing: AtomicUsize,
    /// Nothing new is taken; a failing worker need not find out whether it could.
    stopping: SetOnce<()>,
    /// Why no batch will ever run again.
    broken: SetOnce<String>,
    /// The same, where those that run never end.
    hung: SetOnce<String>,
    /// How long each worker has waited for its model.
    clocks: Mutex<Vec<Arc<Clock>>>,
}

impl Stats {
    /// Of an engine with this many workers.
    pub(super) fn of_workers(workers: usize) -> Self {
        Self {
            workers,
            ..Self::default()
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.max(1)
    }

    /// A worker has begun to fail, or answers again.
    pub(super) fn worker_fails(&self, fails: bool) {
        match fails {
            true => self.failing.fetch_add(1, Ordering::Relaxed),
            false => self.failing.fetch_sub(1, Ordering::Relaxed),
        };
    }

    pub(super) fn stop_probing(&self) {
        // An error says that it has been told already.
        let _ = self.stopping.set(());
    }

    pub(super) fn stopping(&self) -> &SetOnce<()> {
        &self.stopping
    }

    /// The first reason stays.
    pub(super) fn break_down(&self, reason: String) {
        tracing::error!(%reason, "the model is lost");
        // An error says that there is a reason already.
        let _ = self.broken.set(reason);
    }

    pub(super) fn broken(&self) -> &SetOnce<String> {
        &self.broken
    }

    /// A worker waits for its model for ever, and whoever waits for the worker does too, unless told.
    pub(super) fn hang(&self, reason: String) {
        self.break_down(reason.clone());
        // As above.
        let _ = self.hung.set(reason);
    }

    pub(super) fn hung(&self) -> &SetOnce<String> {
        &self.hung
    }

    /// A clock for one more worker.
    pub(super) fn new_clock(&self) -> Arc<Clock> {
        let clock = Arc::default();
        self.clocks.lock().expect(NO_PANIC).push(Arc::clone(&clock));
        clock
    }

    /// Since when the batch that has taken longest is computed, if one is.
    pub(super) fn running_since(&self) -> Option<Instant> {
        let clocks = self.clocks.lock().expect(NO_PANIC);
        clocks.iter().filter_map(|clock| clock.since()).min()
    }

    /// Whether some worker answers.
    pub(super) fn is_healthy(&self) -> bool {
        self.failing.load(Ordering::Relaxed) < self.workers()
    }
}

/// Where the time of one answer went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the queue's end to the beginning of its batch.
    pub queue: Duration,
    /// In the forward pass of its batch.
    pub inference: Duration,
}

impl Timing {
    /// The longer of each: what a request of several texts waited.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            queue: self.queue.max(other.queue),
            inference: self.inference.max(other.inference),
        }
    }
}
