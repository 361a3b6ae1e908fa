//! The engine's queue: entries, limits and counters for the queue of `crates/queue`, on std's locks and tokio's time.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use cloze_queue::{Counters, Environment, Permits, Refusal};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{BatchInterval, EngineError, Limits, RequestSpans, Scores, Sequence, Stats};
use crate::lm::Demand;

pub type Queue = cloze_queue::Queue<EngineQueue>;

pub type Returning = cloze_queue::Returning<EngineQueue>;

pub type Reply = Result<(Scores, BatchInterval), EngineError>;

/// One sequence in the queue.
pub struct Entry {
    /// The id of the request, the same for all its sequences.
    pub request: u64,
    /// For a sequence beyond the first of its request.
    pub place: Option<Permits>,
    pub sequence: Arc<Sequence>,
    /// Share of a batch, in tokens that cost as much.
    pub cost: usize,
    pub queued_at: Instant,
    pub deadline: Instant,
    /// Closed when the client has left.
    pub reply: oneshot::Sender<Reply>,
    /// For the model while it computes.
    pub demand: Demand,
    pub spans: RequestSpans,
}

impl Entry {
    /// False once the client has left or the deadline has passed.
    pub fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && now < self.deadline
    }
}

impl cloze_queue::Share for Entry {
    fn request(&self) -> u64 {
        self.request
    }

    fn cost(&self) -> usize {
        self.cost
    }
}

impl cloze_queue::Entry for Entry {
    type Instant = Instant;

    fn tokens(&self) -> usize {
        self.sequence.token_ids.len()
    }

    fn queued_at(&self) -> Instant {
        self.queued_at
    }

    fn is_wanted(&self, now: Instant) -> bool {
        self.is_wanted(now)
    }

    fn leave(&mut self) {
        // Another list may use its place.
        self.place = None;
    }
}

/// A place in the queue for a request that is not submitted yet; given back when dropped.
///
/// Until it is [settled](Self::settle), a full queue may give the place of a request that arrives slowly to another
/// one.
#[derive(Debug)]
pub struct Admission(pub(super) cloze_queue::Admission<EngineQueue>);

impl Admission {
    /// Completes when another request has taken the place.
    pub async fn displaced(&self) {
        self.0.displaced().await;
    }

    /// Keeps the place: the request has arrived whole.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] if another request has taken the place.
    pub fn settle(&mut self) -> Result<(), EngineError> {
        self.0.settle()
    }
}

/// The environment of the engine's queue.
pub struct EngineQueue;

impl Environment for EngineQueue {
    type Entry = Entry;
    type Limits = Limits;
    type Counters = Stats;
    type Error = EngineError;
    type Instant = Instant;
    type Mutex<T: Send> = Mutex<T>;
    type Notify = Notify;

    fn now() -> Instant {
        Instant::now()
    }

    async fn completes_by(deadline: Instant, event: impl Future<Output = ()> + Send) -> bool {
        tokio::time::timeout_at(deadline, event).await.is_ok()
    }

    /// Blocks the thread, since tokio's timers have steps of a millisecond.
    async fn completes_soon(deadline: Instant, event: impl Future<Output = ()> + Send) -> bool {
        let deadline = std::time::Instant::now() + deadline.saturating_duration_since(Instant::now());
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut event = pin!(event);
        while event.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(left);
        }
        true
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl cloze_queue::Limits for Limits {
    fn batch_tokens_max(&self) -> usize {
        self.batch_tokens_max
    }

    fn batch_size_max(&self) -> usize {
        self.batch_size_max
    }

    fn batch_delay(&self) -> Duration {
        self.batch_delay
    }

    fn queue_size(&self) -> usize {
        self.queue_size
    }
}

impl Counters for Stats {
    fn abandoned(&self, sequences: u64) {
        self.abandoned.add(sequences);
    }

    fn rejected(&self, requests: u64) {
        self.rejected.add(requests);
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => Self::QueueFull,
            Refusal::Closed => Self::Stopped,
        }
    }
}
