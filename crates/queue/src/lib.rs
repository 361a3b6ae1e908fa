//! A bounded queue of requests that take turns, from which workers take batches.
//!
//! Requests take turns by cost: the sequence is next that would end first if all requests that wait shared the model in
//! equal parts (weighted fair queueing, see `turns`). So a short text waits neither for whole lists nor for long texts.
//!
//! The queue knows neither models nor a runtime: its [`Environment`] gives it locks, notifications and a clock. The
//! engine gives those of std and tokio; a test of the queue's interleavings gives those of a scheduler that tries many
//! orders.

mod admission;
mod environment;
mod fair_semaphore;
mod returning;
mod turns;

use std::collections::BTreeMap;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

pub use admission::Admission;
pub use environment::{Counters, Entry, Environment, Limits, Lock, Notify, Share};
pub use fair_semaphore::{FairSemaphore, Permits};
pub use returning::Returning;
use turns::Turns;

/// A request whose body takes longer than this may lose its place to another.
pub const SLOW_BODY: Duration = Duration::from_millis(250);

/// After a full queue was swept in vain it counts as full for this long per sequence in it: many times the cost of a
/// sweep, so that a refusal costs the same however long the queue is.
const FULL_PER_SEQUENCE: Duration = Duration::from_micros(1);

/// A batch has no sequences that cost more than so many times the first, or than so many sequences of
/// [`SHORT_TOKENS`].
const LENGTHS_MAX: usize = 8;
const SHORT_TOKENS: usize = 32;

/// Reason why the queue does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Full,
    Closed,
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
    requests: Turns<E::Entry>,
    /// The number of entries of all requests.
    sequences: usize,
    /// Cost of all entries.
    cost: usize,
    /// Requests that are admitted and not submitted; each will bring at least one entry.
    admitted: usize,
    /// Those of them that have not arrived whole yet, in the order of their admission.
    receiving: BTreeMap<u64, Receiving<E>>,
    admissions: u64,
    /// Counts what has been queued: requests, or pieces of them.
    pushes: u64,
    /// Until then a full queue counts as full without a sweep.
    full_until: Option<E::Instant>,
    closed: bool,
}

/// An admitted request that has not arrived whole yet.
struct Receiving<E: Environment> {
    since: E::Instant,
    displaced: Arc<E::Notify>,
}

impl<E: Environment> Default for State<E> {
    fn default() -> Self {
        Self {
            requests: Turns::default(),
            sequences: 0,
            cost: 0,
            admitted: 0,
            receiving: BTreeMap::new(),
            admissions: 0,
            pushes: 0,
            full_until: None,
            closed: false,
        }
    }
}

impl<E: Environment> State<E> {
    fn fills_a_batch(&self, limits: &E::Limits) -> bool {
        self.sequences >= limits.batch_size_max() || self.cost >= limits.batch_tokens_max()
    }

    fn is_full(&self, queue_size: usize) -> bool {
        self.sequences + self.admitted >= queue_size
    }

    /// Drops entries that are no longer wanted; returns how many.
    fn sweep(&mut self) -> u64 {
        let now = E::now();
        let before = self.sequences;
        self.requests.retain(|entry| entry.is_wanted(now));
        self.count();
        (before - self.sequences) as u64
    }

    /// Counts sequences and their cost again.
    fn count(&mut self) {
        self.sequences = self.requests.entries().count();
        self.cost = self.requests.entries().map(Share::cost).sum();
    }

    /// Takes the place of the request that has been arriving longest, if that is as long as `patience`.
    fn displace(&mut self, patience: Duration) -> bool {
        let now = E::now();
        match self.receiving.first_entry() {
            Some(oldest) if oldest.get().since + patience <= now => {
                oldest.remove().displaced.notify_one();
                self.admitted -= 1;
                true
            }
            _ => false,
        }
    }

    fn push(&mut self, entries: Vec<E::Entry>) {
        self.pushes += 1;
        self.sequences += entries.len();
        self.cost += entries.iter().map(Share::cost).sum::<usize>();
        self.requests.push(entries);
    }

    /// Takes the sequence that is next.
    fn pop(&mut self) -> Option<E::Entry> {
        let mut entry = self.requests.pop()?;
        self.sequences -= 1;
        self.cost -= entry.cost();
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

    /// Admits a request while entries and admitted requests are fewer than the queue's size, or refuses it. A full
    /// queue admits it in place of one whose body has been arriving for longer than [`SLOW_BODY`]. The admission is for
    /// the request's first sequence; those beyond it need list places.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(self: &Arc<Self>) -> Result<Admission<E>, E::Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Refusal::Closed.into());
        }
        let size = self.limits.queue_size();
        if state.is_full(size) {
            // Clients that wait may have left.
            self.stats.abandoned(state.sweep_if_due());
        }
        if state.is_full(size) {
            // Either the slowest request or this one has no place.
            self.stats.rejected(1);
            if !state.displace(SLOW_BODY) {
                return Err(Refusal::Full.into());
            }
        }
        state.admitted += 1;
        Ok(Admission::new(self, &mut state))
    }

    /// Admits a request that has arrived whole after [`admit`](Self::admit) refused it: a full queue gives it the place
    /// of any request that has not.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit_whole(self: &Arc<Self>) -> Result<Admission<E>, E::Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Refusal::Closed.into());
        }
        if state.is_full(self.limits.queue_size()) && !state.displace(Duration::ZERO) {
            return Err(Refusal::Full.into());
        }
        state.admitted += 1;
        let mut admission = Admission::new(self, &mut state);
        drop(state);
        admission.settle()?;
        Ok(admission)
    }

    /// Takes the place of the request that has been arriving longest, if that is longer than [`SLOW_BODY`].
    pub fn displace_slow(&self) {
        if self.state().displace(SLOW_BODY) {
            self.stats.rejected(1);
        }
    }

    /// True if an admitted request has not arrived whole.
    pub fn is_receiving(&self) -> bool {
        !self.state().receiving.is_empty()
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

    /// The next batch: at least one entry, within the limits, in the order of turns. `None` once the queue is closed
    /// and empty.
    pub async fn next_batch(&self) -> Option<Vec<E::Entry>> {
        self.next_batch_after(&mut Returning::default()).await
    }

    /// The [next batch](Self::next_batch) of a worker, which waits a moment for clients that it has just answered.
    pub async fn next_batch_after(&self, returning: &mut Returning<E>) -> Option<Vec<E::Entry>> {
        loop {
            let first_queued_at = self.first_queued_at().await?;
            if self.limits.batch_delay().is_zero() {
                self.wait_for_returning(returning).await;
            } else {
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
                match state.requests.first_entries().map(E::Entry::queued_at).min() {
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

    fn take_batch(&self) -> Vec<E::Entry> {
        let mut state = self.state();
        self.stats.abandoned(state.sweep());
        let mut batch = Vec::new();
        let mut cost = 0;
        let mut longest = None;
        while let Some(next) = state.requests.front() {
            let more = cost + next.cost();
            // A sequence beyond the limit is a batch by itself, so that it does not block the queue. A short one does not
            // wait for long ones in its batch.
            let longest = *longest.get_or_insert(LENGTHS_MAX * next.cost().max(SHORT_TOKENS));
            let fits = batch.is_empty() || (more <= self.limits.batch_tokens_max() && next.cost() <= longest);
            if batch.len() == self.limits.batch_size_max() || !fits {
                break;
            }
            cost = more;
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
        state.requests = Turns::default();
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
        (state.sequences, state.requests.entries().map(E::Entry::tokens).sum())
    }

    fn state(&self) -> impl DerefMut<Target = State<E>> {
        self.state.lock()
    }
}
