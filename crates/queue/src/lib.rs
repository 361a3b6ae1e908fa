//! A bounded queue of requests that take turns, from which workers take batches.
//!
//! Requests take turns: a batch takes one sequence of each request that waits, then the next of each, so that a single text
//! waits for one sequence of each request before it, not for whole lists.
//!
//! The queue knows neither models nor a runtime: its [`Environment`] gives it locks, notifications and a clock. The engine
//! gives those of std and tokio; a test of the queue's interleavings gives those of a scheduler that tries many orders.

mod environment;

use std::collections::VecDeque;
use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

pub use environment::{Counters, Entry, Environment, Limits, Lock, Notify};

/// After a full queue was swept in vain it counts as full for this long per sequence in it: many times the cost of a
/// sweep, so that a refusal costs the same however long the queue is.
const FULL_PER_SEQUENCE: Duration = Duration::from_micros(1);

/// Reason why the queue does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Full,
    Closed,
}

/// A place in the queue for a request that is not submitted yet; given back when dropped. Holds `None` once submitted.
pub struct Admission<E: Environment>(Option<Arc<Queue<E>>>);

impl<E: Environment> Admission<E> {
    /// Queues the entries of the admitted request, unless the queue is closed. A full queue refuses no admitted request.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn push(mut self, entries: Vec<E::Entry>) -> Result<(), E::Error> {
        match self.0.take() {
            Some(queue) => queue.push_admitted(entries),
            None => Err(Refusal::Closed.into()),
        }
    }
}

impl<E: Environment> fmt::Debug for Admission<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

impl<E: Environment> Drop for Admission<E> {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.state().admitted -= 1;
        }
    }
}

/// A bounded queue of requests that take turns, from which workers take batches.
pub struct Queue<E: Environment> {
    pub limits: E::Limits,
    pub stats: E::Counters,
    state: E::Mutex<State<E>>,
    /// Wakes a worker when a sequence arrived or the queue closed.
    changed: E::Notify,
}

struct State<E: Environment> {
    /// In the order of their turns. None is empty.
    requests: VecDeque<VecDeque<E::Entry>>,
    /// The number of entries of all requests.
    sequences: usize,
    /// Tokens of all entries.
    tokens: usize,
    /// Requests that are admitted and not submitted; each will bring at least one entry.
    admitted: usize,
    /// Until then a full queue counts as full without a sweep.
    full_until: Option<E::Instant>,
    closed: bool,
}

impl<E: Environment> Default for State<E> {
    fn default() -> Self {
        Self {
            requests: VecDeque::new(),
            sequences: 0,
            tokens: 0,
            admitted: 0,
            full_until: None,
            closed: false,
        }
    }
}

impl<E: Environment> State<E> {
    fn fills_a_batch(&self, limits: &E::Limits) -> bool {
        self.sequences >= limits.batch_size_max() || self.tokens >= limits.batch_tokens_max()
    }

    /// Drops entries that are no longer wanted; returns how many.
    fn sweep(&mut self) -> u64 {
        let now = E::now();
        let before = self.sequences;
        self.requests.retain_mut(|entries| {
            entries.retain(|entry| entry.is_wanted(now));
            !entries.is_empty()
        });
        self.count();
        (before - self.sequences) as u64
    }

    /// Counts sequences and tokens again.
    fn count(&mut self) {
        self.sequences = self.requests.iter().map(VecDeque::len).sum();
        self.tokens = self.requests.iter().flatten().map(E::Entry::tokens).sum();
    }

    fn push(&mut self, entries: Vec<E::Entry>) {
        let Some(first) = entries.first() else { return };
        self.sequences += entries.len();
        self.tokens += entries.iter().map(E::Entry::tokens).sum::<usize>();
        let request = first.request();
        let is_same = |other: &&mut VecDeque<E::Entry>| other.front().is_some_and(|entry| entry.request() == request);
        match self.requests.iter_mut().find(is_same) {
            Some(waiting) => waiting.extend(entries),
            None => self.requests.push_back(entries.into()),
        }
    }

    /// The sequence that is next.
    fn front(&self) -> Option<&E::Entry> {
        self.requests.front()?.front()
    }

    /// Takes the sequence that is next. Its request moves behind all others.
    fn pop(&mut self) -> Option<E::Entry> {
        let mut entries = self.requests.pop_front()?;
        let mut entry = entries.pop_front()?;
        if !entries.is_empty() {
            self.requests.push_back(entries);
        }
        self.sequences -= 1;
        self.tokens -= entry.tokens();
        entry.leave();
        Some(entry)
    }

    /// The same, except for a while after a sweep in vain.
    fn sweep_if_due(&mut self) -> u64 {
        let now = E::now();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        let dropped = self.sweep();
        let entries = u32::try_from(self.sequences).unwrap_or(u32::MAX);
        self.full_until = (dropped == 0).then(|| now + FULL_PER_SEQUENCE * entries);
        dropped
    }
}

impl<E: Environment> Queue<E> {
    pub fn new(limits: E::Limits) -> Self {
        Self {
            limits,
            stats: E::Counters::default(),
            state: E::Mutex::new(State::default()),
            changed: E::Notify::default(),
        }
    }

    /// Admits a request while entries and admitted requests are fewer than the queue's size, or refuses it. The admission is for
    /// the request's first sequence; those beyond it need list places.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(self: &Arc<Self>) -> Result<Admission<E>, E::Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Refusal::Closed.into());
        }
        let places = self.limits.queue_size().saturating_sub(state.admitted);
        if state.sequences >= places {
            // Clients that wait may have left.
            self.stats.abandoned(state.sweep_if_due());
        }
        if state.sequences >= places {
            self.stats.rejected(1);
            return Err(Refusal::Full.into());
        }
        state.admitted += 1;
        Ok(Admission(Some(Arc::clone(self))))
    }

    fn push_admitted(&self, entries: Vec<E::Entry>) -> Result<(), E::Error> {
        let mut state = self.state();
        state.admitted -= 1;
        self.push_into(state, entries)
    }

    /// Queues further entries of a request, which have list places, unless the queue is closed.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn push(&self, entries: Vec<E::Entry>) -> Result<(), E::Error> {
        self.push_into(self.state(), entries)
    }

    fn push_into(&self, mut state: impl DerefMut<Target = State<E>>, entries: Vec<E::Entry>) -> Result<(), E::Error> {
        if state.closed {
            return Err(Refusal::Closed.into());
        }
        state.push(entries);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The next batch: at least one entry, within the limits, in the order of turns. `None` once the queue is closed and
    /// empty.
    pub async fn next_batch(&self) -> Option<Vec<E::Entry>> {
        loop {
            let first_queued_at = self.first_queued_at().await?;
            if !self.limits.batch_delay().is_zero() {
                self.wait_for_full_batch(first_queued_at + self.limits.batch_delay())
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
    async fn first_queued_at(&self) -> Option<E::Instant> {
        loop {
            // Registered before the look, so that an arrival in between is not missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                self.stats.abandoned(state.sweep());
                match state
                    .requests
                    .iter()
                    .filter_map(VecDeque::front)
                    .map(E::Entry::queued_at)
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
    async fn wait_for_full_batch(&self, deadline: E::Instant) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.fills_a_batch(&self.limits) || state.closed {
                    return;
                }
            }
            if !E::completes_by(deadline, changed).await {
                return;
            }
        }
    }

    /// The next batch if it is full already.
    pub fn full_batch(&self) -> Option<Vec<E::Entry>> {
        if !self.state().fills_a_batch(&self.limits) {
            return None;
        }
        Some(self.take_batch()).filter(|batch| !batch.is_empty())
    }

    fn take_batch(&self) -> Vec<E::Entry> {
        let mut state = self.state();
        self.stats.abandoned(state.sweep());
        let mut batch = Vec::new();
        let mut tokens = 0;
        while let Some(next) = state.front() {
            let more = tokens + next.tokens();
            // A sequence beyond the limit is a batch by itself, so that it does not block the queue.
            let fits = batch.is_empty() || more <= self.limits.batch_tokens_max();
            if batch.len() == self.limits.batch_size_max() || !fits {
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
        self.stats.abandoned(state.sequences as u64);
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
        self.stats.abandoned(state.sweep());
        (state.sequences, state.tokens)
    }

    fn state(&self) -> impl DerefMut<Target = State<E>> {
        self.state.lock()
    }
}
