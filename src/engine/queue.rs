//! The queue: bounded admission, and which sequences make the next batch.
//!
//! Requests take turns: a batch takes one sequence of each request that waits, then the next of each, so that a single text
//! waits for one sequence of each request before it, not for whole lists.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::sync::Mutex;
use super::{EngineError, Limits, ListPlace, RequestSpans, Scores, Sequence, Stats, Timing};

/// After a full queue was swept in vain it counts as full for this long per sequence in it: many times the cost of a
/// sweep, so that a refusal costs the same however long the queue is.
const FULL_PER_SEQUENCE: Duration = Duration::from_micros(1);

pub type Reply = Result<(Scores, Timing), EngineError>;

/// One sequence in the queue.
pub struct Entry {
    /// Tells the sequences of one request from those of others.
    pub request: u64,
    /// For a sequence beyond the first of its request.
    pub place: Option<ListPlace>,
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

/// A bounded queue of requests that take turns, from which workers take batches.
pub struct Queue {
    pub limits: Limits,
    pub stats: Stats,
    state: Mutex<State>,
    /// Wakes a worker when a sequence arrived or the queue closed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// In the order of their turns. None is empty.
    requests: VecDeque<VecDeque<Entry>>,
    /// The number of entries of all requests.
    sequences: usize,
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
        self.sequences >= limits.batch_size_max || self.tokens >= limits.batch_tokens_max
    }

    /// Drops entries that are no longer wanted; returns how many.
    fn sweep(&mut self) -> u64 {
        let now = Instant::now();
        let before = self.sequences;
        self.requests.retain_mut(|entries| {
            entries.retain(|entry| entry.is_wanted(now));
            !entries.is_empty()
        });
        self.count();
        (before - self.sequences) as u64
    }

    /// Counts sequences and tokens anew.
    fn count(&mut self) {
        self.sequences = self.requests.iter().map(VecDeque::len).sum();
        self.tokens = self.requests.iter().flatten().map(Entry::tokens).sum();
    }

    fn push(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        self.sequences += entries.len();
        self.tokens += entries.iter().map(Entry::tokens).sum::<usize>();
        let is_same = |other: &&mut VecDeque<Entry>| other.front().is_some_and(|entry| entry.request == first.request);
        match self.requests.iter_mut().find(is_same) {
            Some(waiting) => waiting.extend(entries),
            None => self.requests.push_back(entries.into()),
        }
    }

    /// The sequence that is next.
    fn front(&self) -> Option<&Entry> {
        self.requests.front()?.front()
    }

    /// Takes the sequence that is next. Its request moves behind all others.
    fn pop(&mut self) -> Option<Entry> {
        let mut entries = self.requests.pop_front()?;
        let mut entry = entries.pop_front()?;
        if !entries.is_empty() {
            self.requests.push_back(entries);
        }
        self.sequences -= 1;
        self.tokens -= entry.tokens();
        // Another list may use its place.
        entry.place = None;
        Some(entry)
    }

    /// The same, except for a while after a sweep in vain.
    fn sweep_if_due(&mut self) -> u64 {
        let now = Instant::now();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        let dropped = self.sweep();
        let entries = u32::try_from(self.sequences).unwrap_or(u32::MAX);
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

    /// Admits a request while entries and admitted requests are fewer than the queue's size, or refuses it. The admission is for
    /// the request's first sequence; those beyond it need list places.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, EngineError> {
        let mut state = self.state();
        if state.closed {
            return Err(EngineError::Stopped);
        }
        let places = self.limits.queue_size.saturating_sub(state.admitted);
        if state.sequences >= places {
            // Clients that wait may have left.
            self.stats.abandoned.add(state.sweep_if_due());
        }
        if state.sequences >= places {
            self.stats.rejected.add(1);
            return Err(EngineError::QueueFull);
        }
        state.admitted += 1;
        Ok(Admission(Some(Arc::clone(self))))
    }

    fn push_admitted(&self, entries: Vec<Entry>) -> Result<(), EngineError> {
        let mut state = self.state();
        state.admitted -= 1;
        self.push_into(state, entries)
    }

    /// Queues further entries of a request, which have list places, unless the queue is closed.
    pub fn push(&self, entries: Vec<Entry>) -> Result<(), EngineError> {
        self.push_into(self.state(), entries)
    }

    fn push_into(
        &self,
        mut state: impl std::ops::DerefMut<Target = State>,
        entries: Vec<Entry>,
    ) -> Result<(), EngineError> {
        if state.closed {
            return Err(EngineError::Stopped);
        }
        state.push(entries);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The next batch: at least one entry, within the limits, in the order of turns. `None` once the queue is closed and
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

    /// Waits until an entry is wanted; returns when the oldest was queued. `None` once closed and empty.
    async fn first_queued_at(&self) -> Option<Instant> {
        loop {
            // Registered before the look, so that an arrival in between is not missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                self.stats.abandoned.add(state.sweep());
                match state
                    .requests
                    .iter()
                    .filter_map(VecDeque::front)
                    .map(|entry| entry.queued_at)
                    .min()
                {
                    Some(queued_at) => return Some(queued_at),
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
        while let Some(next) = state.front() {
            let more = tokens + next.tokens();
            // A sequence beyond the limit is a batch by itself, so that it does not block the queue.
            let fits = batch.is_empty() || more <= self.limits.batch_tokens_max;
            if batch.len() == self.limits.batch_size_max || !fits {
                break;
            }
            tokens = more;
            batch.extend(state.pop());
        }
        if state.sequences > 0 {
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
        self.stats.abandoned.add(state.sequences as u64);
        state.requests.clear();
        state.count();
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
        (state.sequences, state.tokens)
    }

    fn state(&self) -> impl std::ops::DerefMut<Target = State> {
        self.state.lock().expect("no thread panics while it holds the queue")
    }
}
