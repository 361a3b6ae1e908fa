//! The parts that a queue gets from its user.

use std::future::Future;
use std::ops::{Add, DerefMut};
use std::sync::Mutex;
use std::time::Duration;

/// Types and time of one kind of queue.
pub trait Environment: Sized + 'static {
    type Entry: Entry<Instant = Self::Instant>;
    type Limits: Limits;
    type Counters: Counters;
    type Error: From<crate::Refusal>;
    type Instant: Copy + Ord + Add<Duration, Output = Self::Instant> + Send + Sync;
    type Mutex<T: Send>: Lock<T>;
    type Notify: Notify;

    fn now() -> Self::Instant;

    /// Waits for `event` until `deadline`; false if the deadline comes first.
    fn completes_by(
        deadline: Self::Instant,
        event: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = bool> + Send;

    /// The same for a wait of some milliseconds at most: more exact, and the thread may be blocked.
    fn completes_soon(
        deadline: Self::Instant,
        event: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = bool> + Send;
}

/// A part of a request that takes its turn.
pub trait Share {
    /// The id of the request, the same for all its parts.
    fn request(&self) -> u64;

    /// Its share of the model's time, in tokens that cost as much.
    fn cost(&self) -> usize;
}

/// One sequence in the queue.
pub trait Entry: Share + Send {
    type Instant;

    fn tokens(&self) -> usize;

    fn queued_at(&self) -> Self::Instant;

    /// False once the client has left or the deadline has passed.
    fn is_wanted(&self, now: Self::Instant) -> bool;

    /// Called when the entry leaves the queue for a batch.
    fn leave(&mut self) {}
}

/// Sizes of queue and batches.
pub trait Limits {
    /// Cost of one batch. A more expensive sequence is a batch by itself.
    fn batch_tokens_max(&self) -> usize;

    /// Sequences of one batch.
    fn batch_size_max(&self) -> usize;

    /// A batch that is not full waits this long, counted from the arrival of its first sequence.
    fn batch_delay(&self) -> Duration;

    /// Capacity in sequences.
    fn queue_size(&self) -> usize;
}

/// Counts of sequences that leave without an answer.
pub trait Counters: Default {
    /// Sequences whose clients left or whose deadlines passed.
    fn abandoned(&self, sequences: u64);

    /// Requests that found the queue full.
    fn rejected(&self, requests: u64);
}

/// A mutex.
pub trait Lock<T>: Send + Sync {
    fn new(value: T) -> Self;

    fn lock(&self) -> impl DerefMut<Target = T>;
}

/// Wakes one task that waits. A notification without a waiting task is kept for the next one.
pub trait Notify: Default + Send + Sync {
    fn notify_one(&self);

    fn notified(&self) -> impl Future<Output = ()> + Send;
}

impl<T: Send> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn lock(&self) -> impl DerefMut<Target = T> {
        self.lock().expect("no thread panics while it holds the queue")
    }
}

impl Notify for tokio::sync::Notify {
    fn notify_one(&self) {
        self.notify_one();
    }

    fn notified(&self) -> impl Future<Output = ()> + Send {
        self.notified()
    }
}
