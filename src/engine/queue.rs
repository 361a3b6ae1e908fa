//! The queue: bounded admission, and which sequences make the next batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::sync::Mutex;
use super::{EngineError, Limits, RequestSpans, Scores, Sequence, Stats, Timing};

/// After a full queue was swept in vain it counts as full for this long per sequence in it: many times the cost of a
/// sweep, so that a refusal costs the same however long the queue is.
const FULL_PER_SEQUENCE: Duration = Duration::from_micros(1);

pub type Reply = Result<(Scores, Timing), EngineError>;

/// One sequence in the queue.
pub struct Entry {
    pub sequence: Arc<Sequence>,
    pub queued_at: Instant,
    pub deadline: Instant,
    /// Closed when the client has left.
    pub reply: oneshot::Sender<Reply>,
    pub spans: RequestSpans,
}

impl Entry {
    fn tokens(&self) -> usize {
        self.sequence.token_ids.len()
    }

    /// False once the client has left or the deadline has passed.
    pub fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && now < self.deadline
    }
}

/// A place in the queue for a request that is not submitted yet; given back when dropped. Holds `None` once submitted.
pub struct Admission(Option<Arc<Queue>>);

impl Admission {
    /// Queues the entries of the admitted request, unless the queue is closed. A full queue refuses no admitted request.
    pub fn push(mut self, entries: Vec<Entry>) -> Result<(), EngineError> {
        match self.0.take() {
            Some(queue) => queue.push_admitted(entries),
            None => Err(EngineError::Stopped),
        }
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.state().admitted -= 1;
        }
    }
}

/// A bounded first-in-first-out queue, from which workers take batches.
pub struct Queue {
    pub limits: Limits,
    pub stats: Stats,
    state: Mutex<State>,
    /// Wakes a worker when a sequence arrived or the queue closed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Tokens of all entries.
    tokens: usize,
    /// Requests that are admitted and not submitted; each will bring at least one entry.
    admitted: usize,
    /// Until then a full queue counts as full without a sweep.
    full_until: Option<Instant>,
    closed: bool,
}

impl State {
    fn fills_a_batch(&self, limits: &Limits) -> bool {
        self.entries.len() >= limits.batch_size_max || self.tokens >= limits.batch_tokens_max
    }

    /// Drops entries that are no longer wanted; returns how many.
    fn sweep(&mut self) -> u64 {
        let now = Instant::now();
        let before = self.entries.len();
        self.entries.retain(|entry| entry.is_wanted(now));
        self.tokens = self.entries.iter().map(Entry::tokens).sum();
        (before - self.entries.len()) as u64
    }

    /// The same, except for a while after a sweep in vain.
    fn sweep_if_due(&mut self) -> u64 {
        let now = Instant::now();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        let dropped = self.sweep();
        let entries = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.full_until = (dropped == 0).then(|| now + FULL_PER_SEQUENCE * entries);
        dropped
    }
}

impl Queue {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stats: Stats::default(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Admits a request while entries and admitted requests are fewer than the queue's size, or refuses it. The rule is the
    /// same for one sequence and for a list, so that neither starves the other; a list may fill the queue beyond its size.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, EngineError> {
        let mut state = self.state();
        if state.closed {
            return Err(EngineError::Stopped);
        }
        let places = self.limits.queue_size.saturating_sub(state.admitted);
        if state.entries.len() >= places {
            // Clients that wait may have left.
            self.stats.abandoned.add(state.sweep_if_due());
        }
        if state.entries.len() >= places {
            self.stats.rejected.add(1);
            return Err(EngineError::QueueFull);
        }
        state.admitted += 1;
        Ok(Admission(Some(Arc::clone(self))))
    }

    fn push_admitted(&self, entries: Vec<Entry>) -> Result<(), EngineError> {
        let mut state = self.state();
        state.admitted -= 1;
        if state.closed {
            return Err(EngineError::Stopped);
        }
        state.tokens += entries.iter().map(Entry::tokens).sum::<usize>();
        state.entries.extend(entries);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The next batch: at least one entry, within the limits, in order of arrival. `None` once the queue is closed and
    /// empty.
    pub async fn next_batch(&self) -> Option<Vec<Entry>> {
        loop {
            let first_queued_at = self.first_queued_at().await?;
            if !self.limits.batch_delay.is_zero() {
                self.wait_for_full_batch(first_queued_at + self.limits.batch_delay)
                    .await;
            }
            // Every client may have left during the wait.
            let batch = self.take_batch();
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Waits until an entry is wanted; returns when it was queued. `None` once closed and empty.
    async fn first_queued_at(&self) -> Option<Instant> {
        loop {
            // Registered before the look, so that an arrival in between is not missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                self.stats.abandoned.add(state.sweep());
                match state.entries.front() {
                    Some(first) => return Some(first.queued_at),
                    None if state.closed => {
                        // The other workers must end too.
                        self.changed.notify_one();
                        return None;
                    }
                    None => {}
                }
            }
            changed.await;
        }
    }

    /// Waits until a batch is full, the queue closes, or `deadline`: one deadline, never moved.
    async fn wait_for_full_batch(&self, deadline: Instant) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.fills_a_batch(&self.limits) || state.closed {
                    return;
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// The next batch if it is full already.
    pub fn full_batch(&self) -> Option<Vec<Entry>> {
        if !self.state().fills_a_batch(&self.limits) {
            return None;
        }
        Some(self.take_batch()).filter(|batch| !batch.is_empty())
    }

    fn take_batch(&self) -> Vec<Entry> {
        let mut state = self.state();
        self.stats.abandoned.add(state.sweep());
        let mut batch = Vec::new();
        let mut tokens = 0;
        while let Some(next) = state.entries.front() {
            let more = tokens + next.tokens();
            // A sequence beyond the limit is a batch by itself, so that it does not block the queue.
            let fits = batch.is_empty() || more <= self.limits.batch_tokens_max;
            if batch.len() == self.limits.batch_size_max || !fits {
                break;
            }
            tokens = more;
            batch.extend(state.entries.pop_front());
        }
        state.tokens -= tokens;
        if !state.entries.is_empty() {
            // The wake-ups of the remaining entries may have gone to the worker that takes this batch.
            self.changed.notify_one();
        }
        batch
    }

    /// Refuses new requests; queued entries are still served.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Refuses new requests and drops all entries.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        self.stats.abandoned.add(state.entries.len() as u64);
        state.entries.clear();
        state.tokens = 0;
        drop(state);
        // Workers that wait must end.
        self.changed.notify_one();
    }

    pub fn is_open(&self) -> bool {
        !self.state().closed
    }

    /// Sequences and tokens that are queued and wanted.
    pub fn waiting(&self) -> (usize, usize) {
        let mut state = self.state();
        self.stats.abandoned.add(state.sweep());
        (state.entries.len(), state.tokens)
    }

    fn state(&self) -> impl std::ops::DerefMut<Target = State> {
        self.state.lock().expect("no thread panics while it holds the queue")
    }
}
