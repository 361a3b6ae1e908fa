//! What waits for the model, and which of it makes the next batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

// The mutex too: `tools/interleavings` runs this file with another.
use super::{EngineError, Limits, Mutex, Scores, Sequence, Spans, Stats, Timing};

/// How long a full queue is not looked through again after nobody was found to have left, for each text in it: many
/// times what looking takes, so that refusing costs the same however many wait.
const REST_PER_TEXT: Duration = Duration::from_micros(1);

/// What an item is answered with.
pub type Reply = Result<(Scores, Timing), EngineError>;

/// One text in the queue.
pub struct Item {
    pub sequence: Sequence,
    pub queued_at: Instant,
    pub deadline: Instant,
    /// Closed when its client has gone or has stopped waiting.
    pub reply: oneshot::Sender<Reply>,
    pub spans: Spans,
}

impl Item {
    fn tokens(&self) -> usize {
        self.sequence.token_ids.len()
    }

    /// Whether somebody can still be answered in time.
    pub fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && now < self.deadline
    }
}

/// A place for a request that is being prepared; given back when dropped.
pub struct Admission(Arc<Queue>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.state().preparing -= 1;
    }
}

/// A bounded first-in-first-out queue, from which one worker takes, or several.
pub struct Queue {
    pub limits: Limits,
    pub stats: Stats,
    state: Mutex<State>,
    /// Wakes a worker when something came or the queue closed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Tokens of all items.
    tokens: usize,
    /// Requests that have been let in and are still being prepared; each will bring at least one item.
    preparing: usize,
    /// Until when a full queue counts as full without a look at who has left.
    full_until: Option<Instant>,
    closed: bool,
}

impl State {
    fn fills_a_batch(&self, limits: &Limits) -> bool {
        self.items.len() >= limits.batch_size_max || self.tokens >= limits.batch_tokens_max
    }

    /// Drops what nobody waits for any more; tells how many.
    fn sweep(&mut self) -> u64 {
        let now = Instant::now();
        let before = self.items.len();
        self.items.retain(|item| item.is_wanted(now));
        self.tokens = self.items.iter().map(Item::tokens).sum();
        (before - self.items.len()) as u64
    }

    /// The same, but not at once again after it was in vain.
    fn sweep_if_due(&mut self) -> u64 {
        let now = Instant::now();
        if self.full_until.is_some_and(|until| now < until) {
            return 0;
        }
        let left = self.sweep();
        let texts = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.full_until = (left == 0).then(|| now + REST_PER_TEXT * texts);
        left
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

    /// Lets a request in, or refuses it before anybody works on it. It counts until the admission is dropped.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, EngineError> {
        let mut state = self.state();
        let preparing = state.preparing;
        self.refuse_if_full(&mut state, preparing)?;
        state.preparing += 1;
        Ok(Admission(Arc::clone(self)))
    }

    /// One rule for one text and for many, so that neither starves the other: room is where fewer wait than may.
    /// A list may then fill the queue beyond its size, by less than the size once more.
    fn refuse_if_full(&self, state: &mut State, preparing: usize) -> Result<(), EngineError> {
        if state.closed {
            return Err(EngineError::Stopped);
        }
        let places = self.limits.queue_size.saturating_sub(preparing);
        if state.items.len() >= places {
            // Before turning somebody away, make sure that those who wait are still there.
            self.stats.abandoned.add(state.sweep_if_due());
        }
        if state.items.len() >= places {
            self.stats.rejected.add(1);
            return Err(EngineError::QueueFull);
        }
        Ok(())
    }

    /// Takes all items, or none.
    pub fn push(&self, items: Vec<Item>) -> Result<(), EngineError> {
        let (texts, queue_size) = (items.len(), self.limits.queue_size);
        if texts > queue_size {
            return Err(EngineError::TooManyTexts { texts, queue_size });
        }
        let max = self.limits.batch_tokens_max;
        if let Some(tokens) = items.iter().map(Item::tokens).find(|&tokens| tokens > max) {
            return Err(EngineError::TooManyTokens { tokens, max });
        }
        let mut state = self.state();
        self.refuse_if_full(&mut state, 0)?;
        state.tokens += items.iter().map(Item::tokens).sum::<usize>();
        state.items.extend(items);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The next batch: at least one item, never more than the limits allow, in order of arrival. `None`
    /// once the queue is closed and empty.
    pub async fn next_batch(&self) -> Option<Vec<Item>> {
        loop {
            let first_queued_at = self.first_queued_at().await?;
            if !self.limits.batch_delay.is_zero() {
                self.wait_for_company(first_queued_at + self.limits.batch_delay).await;
            }
            // All of it may have been given up during the wait.
            let batch = self.take_batch();
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Waits until something is wanted, and tells since when. `None` once closed and empty.
    async fn first_queued_at(&self) -> Option<Instant> {
        loop {
            // Registered before looking, so that what comes in between is not missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                self.stats.abandoned.add(state.sweep());
                match state.items.front() {
                    Some(first) => return Some(first.queued_at),
                    None if state.closed => {
                        // Whoever else waits must end too.
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
    async fn wait_for_company(&self, deadline: Instant) {
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

    /// The next batch if it is full already, so that nothing is gained by waiting for company.
    pub fn full_batch(&self) -> Option<Vec<Item>> {
        if !self.state().fills_a_batch(&self.limits) {
            return None;
        }
        Some(self.take_batch()).filter(|batch| !batch.is_empty())
    }

    fn take_batch(&self) -> Vec<Item> {
        let mut state = self.state();
        self.stats.abandoned.add(state.sweep());
        let mut batch = Vec::new();
        let mut tokens = 0;
        while let Some(next) = state.items.front() {
            let more = tokens + next.tokens();
            if batch.len() == self.limits.batch_size_max || more > self.limits.batch_tokens_max {
                break;
            }
            tokens = more;
            batch.extend(state.items.pop_front());
        }
        state.tokens -= tokens;
        if !state.items.is_empty() {
            // The wake-ups of what is left may have gone to whoever takes this batch.
            self.changed.notify_one();
        }
        batch
    }

    /// Refuses what comes from now on; what waits is still served.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Refuses what comes from now on, and drops what waits: nobody will serve it.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        self.stats.abandoned.add(state.items.len() as u64);
        state.items.clear();
        state.tokens = 0;
        drop(state);
        // Other workers may wait for what will never come.
        self.changed.notify_one();
    }

    pub fn is_open(&self) -> bool {
        !self.state().closed
    }

    /// Texts and tokens that somebody still waits for.
    pub fn waiting(&self) -> (usize, usize) {
        let mut state = self.state();
        self.stats.abandoned.add(state.sweep());
        (state.items.len(), state.tokens)
    }

    fn state(&self) -> impl std::ops::DerefMut<Target = State> {
        self.state.lock().expect("nobody panics while holding the queue")
    }
}
