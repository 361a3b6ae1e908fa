//! Counters for metrics. Plain atomics: neither counting nor reading waits.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Observations by power-of-two buckets: 1, 2, 4 … 2^14, and above.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; Self::BOUNDS + 1],
    sum: Counter,
}

impl Histogram {
    const BOUNDS: usize = 15;

    pub(super) fn observe(&self, value: u64) {
        let bound = value.max(1).next_power_of_two().trailing_zeros() as usize;
        self.counts[bound.min(Self::BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum.add(value);
    }

    pub fn snapshot(&self) -> HistogramSnapshot {
        let upper_bound = |index| match index {
            Self::BOUNDS => f64::INFINITY,
            index => (1_u64 << index) as f64,
        };
        let counts = self.counts.iter().enumerate();
        HistogramSnapshot {
            counts: counts
                .map(|(index, count)| (upper_bound(index), count.load(Ordering::Relaxed)))
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
pub struct HistogramSnapshot {
    /// Upper bounds, ascending to infinity, each with the number of observations above the bound before it.
    pub counts: Vec<(f64, u64)>,
    pub sum: u64,
}

impl HistogramSnapshot {
    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

/// Counts since the start of the engine.
#[derive(Debug, Default)]
pub struct Stats {
    /// Sequences of each forward pass.
    pub batch_sequences: Histogram,
    /// Tokens of each forward pass.
    pub batch_tokens: Histogram,
    /// Requests whose deadline passed.
    pub expired: Counter,
    /// Sequences dropped before their forward pass, since their request had left or expired.
    pub abandoned: Counter,
    /// Requests refused because the queue was full.
    pub rejected: Counter,
    /// Sequences that the model failed on.
    pub failed: Counter,
}
