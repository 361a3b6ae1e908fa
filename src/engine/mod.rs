//! The engine: a bounded queue of sequences, and workers that own the model and run batches.
//!
//! [`Engine::admit`] reserves a place, [`Engine::submit`] consumes it, queues a request's sequences and waits for their
//! scores until the deadline. A free worker takes what is queued, after the batch delay if there is one, so that a batch forms
//! while the one before it runs.
//!
//! | file | subject |
//! |---|---|
//! | `queue` | entries, limits and counters for the queue of `crates/queue` |
//! | `worker` | runs batches; a failing sequence does not fail the others of its batch |
//! | `watchdog` | marks the engine broken when a batch runs longer than the batch timeout |
//! | `batch_timer` | how long each worker has waited for its model |
//! | `state` | life-cycle: workers' health, stopping, broken |
//! | `stats` | counters for metrics |
//! | `spans` | tracing of requests and batches |
//! | `timing` | times of a request, in the queue and in the model |

mod batch_timer;
mod error;
mod queue;
mod spans;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod timing;
mod watchdog;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloze_queue::{FairSemaphore, Permits};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lm::{DemandGuard, MaskedLm, Scores, Sequence};

pub use cloze_queue::SLOW_BODY;
pub use error::EngineError;
pub use queue::Admission;
use queue::{Entry, Queue};
use spans::RequestSpans;
use state::EngineState;
pub use stats::{Counter, Histogram, HistogramSnapshot, Stats};
use timing::BatchInterval;
pub use timing::Timing;

/// Sizes of queue and batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one batch; a readout position counts as the tokens that cost as much. A more expensive sequence is a
    /// batch by itself.
    pub batch_tokens_max: usize,
    /// Sequences of one batch.
    pub batch_size_max: usize,
    /// A batch that is not full waits this long, counted from the arrival of its first sequence.
    pub batch_delay: Duration,
    /// Queue capacity in sequences: at this many no further request is admitted. Sequences of lists, beyond the first
    /// of each, take up half of it at most; the others of a list wait for a place, so that lists do not keep single
    /// texts out.
    pub queue_size: usize,
}

impl Limits {
    /// Places for sequences beyond the first of their request.
    fn list_places(&self) -> usize {
        (self.queue_size / 2).max(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_tokens_max: 2048,
            batch_size_max: 64,
            batch_delay: Duration::ZERO,
            queue_size: 512,
        }
    }
}

/// The engine's ability to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// The last batches of every worker failed; the next success makes it ready again.
    Failing,
    Stopped,
    /// The device or a worker is lost for good; the reason is for the log.
    Broken(String),
}

/// Scores whose selection and read-back take about as long as a token's layers: with the demo model on Zen 3, 64 sequences of 6
/// tokens take 50 ms with 5 scores each and 200 ms with 700.
const SCORES_PER_TOKEN: usize = 64;

/// A handle on queue and workers. The workers run until [`stop`](Engine::stop).
pub struct Engine {
    queue: Arc<Queue>,
    list_places: FairSemaphore,
    /// Cost of a readout position, in tokens.
    tokens_per_readout: f32,
    requests: AtomicU64,
    state: Arc<EngineState>,
    workers: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Engine {
    /// Starts a worker thread for each of `models`, one at least.
    ///
    /// # Errors
    /// When the system starts too few threads.
    pub fn start(models: Vec<Box<dyn MaskedLm>>, limits: Limits) -> std::io::Result<Self> {
        let engine = Self {
            list_places: FairSemaphore::new(limits.list_places()),
            tokens_per_readout: models.first().map_or(0.0, |model| model.tokens_per_readout()),
            requests: AtomicU64::new(0),
            queue: Arc::new(Queue::new(limits)),
            state: Arc::new(EngineState::new(models.len())),
            workers: Mutex::default(),
        };
        for (index, model) in models.into_iter().enumerate() {
            // The workers that run already end with the engine.
            engine.start_worker(index, model).inspect_err(|_| engine.stop())?;
        }
        Ok(engine)
    }

    fn start_worker(&self, index: usize, model: Box<dyn MaskedLm>) -> std::io::Result<()> {
        let (queue, state) = (Arc::clone(&self.queue), Arc::clone(&self.state));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let worker = std::thread::Builder::new()
            .name(format!("cloze-worker-{index}"))
            .spawn(move || runtime.block_on(worker::run(&queue, &state, model)))?;
        self.worker_threads().push(worker);
        Ok(())
    }

    /// Starts the watchdog: a batch that runs for `limit` marks the engine [broken](Self::broken). Its requests fail
    /// with [`EngineError::Model`], queued ones with [`EngineError::Stopped`].
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start_watchdog(&self, limit: Duration) -> std::io::Result<()> {
        let (queue, state) = (Arc::clone(&self.queue), Arc::clone(&self.state));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name("cloze-watchdog".to_owned())
            .spawn(move || runtime.block_on(watchdog::watch(&queue, &state, limit)))?;
        Ok(())
    }

    /// Admits a request before any work is done for it, so that a refusal costs next to nothing. An admitted request
    /// has a place in the queue until it is [submitted](Self::submit) or its admission is dropped.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] and [`EngineError::Stopped`].
    pub fn admit(&self) -> Result<Admission, EngineError> {
        self.queue.admit().map(Admission)
    }

    /// Admits a request that has arrived whole, in place of any that has not.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] and [`EngineError::Stopped`].
    pub fn admit_whole(&self) -> Result<Admission, EngineError> {
        self.queue.admit_whole().map(Admission)
    }

    /// Takes the place of the request that has been arriving longest, if it is slow.
    pub fn displace_slow(&self) {
        self.queue.displace_slow();
    }

    /// True if an admitted request has not arrived whole.
    pub fn is_receiving(&self) -> bool {
        self.queue.is_receiving()
    }

    /// Queues sequences of an admitted request and waits for their scores until `deadline`. A full queue does not
    /// refuse them: the first has its place, the others wait for list places. Dropping the future withdraws sequences
    /// that are not computed yet, and ends a batch that nothing else waits for.
    ///
    /// A request may be submitted in pieces. The first has the admission; every sequence of a later piece waits for a
    /// list place, so that other requests run between the pieces.
    ///
    /// # Errors
    /// [`EngineError::Deadline`] when time is up, [`EngineError::Stopped`], else the first failure of a sequence: a
    /// request is answered whole or not at all.
    pub async fn submit(
        &self,
        admission: impl Into<Option<Admission>>,
        sequences: &[Arc<Sequence>],
        deadline: Instant,
    ) -> Result<(Vec<Scores>, Timing), EngineError> {
        let queued_at = Instant::now();
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let spans = RequestSpans::enter_queue();
        let mut replies = Vec::with_capacity(sequences.len());
        // Ends with this future.
        let demand = DemandGuard::default();
        let entry = |replies: &mut Vec<_>, sequence: &Arc<Sequence>, place| {
            let (reply, receiver) = oneshot::channel();
            replies.push(receiver);
            Entry {
                request,
                place,
                cost: self.cost(sequence),
                sequence: Arc::clone(sequence),
                queued_at,
                deadline,
                reply,
                demand: demand.demand(),
                spans: spans.clone(),
            }
        };
        let mut waiting = sequences.iter();
        let mut placed = Vec::new();
        // At once what has places, so that the first batch is full.
        let admission = admission.into();
        if admission.is_some() {
            placed.extend(waiting.next().map(|sequence| entry(&mut replies, sequence, None)));
        }
        let mut places = self.list_places.take_free(waiting.len());
        while let Some(place) = places.split_one()
            && let Some(sequence) = waiting.next()
        {
            placed.push(entry(&mut replies, sequence, Some(place)));
        }
        match admission {
            Some(admission) => admission.0.push(placed)?,
            None if placed.is_empty() => {}
            None => self.queue.push(placed)?,
        }
        while waiting.len() > 0 {
            let places = self.places(waiting.as_slice(), deadline).await;
            let is_answered = |reply: &mut oneshot::Receiver<queue::Reply>| matches!(reply.try_recv(), Ok(Ok(_)));
            let mut places = places.map_err(|error| error.of_part(|| replies.iter_mut().any(is_answered)))?;
            let mut placed = Vec::new();
            while let Some(place) = places.split_one()
                && let Some(sequence) = waiting.next()
            {
                placed.push(entry(&mut replies, sequence, Some(place)));
            }
            self.queue.push(placed)?;
        }
        // From here on the entries alone hold the spans.
        drop(spans);
        let mut scores = Vec::with_capacity(sequences.len());
        let mut batches = Vec::with_capacity(sequences.len());
        for receiver in replies {
            let reply = self.reply(receiver, deadline).await;
            let (of_one, batch) = reply.map_err(|error| error.of_part(|| !scores.is_empty()))?;
            scores.push(of_one);
            batches.push(batch);
        }
        Ok((scores, Timing::of(queued_at, batches)))
    }

    fn cost(&self, sequence: &Sequence) -> usize {
        let readouts = sequence.readout.positions.len() as f32 * self.tokens_per_readout;
        sequence.tokens() + readouts.round() as usize + sequence.readout.scores() / SCORES_PER_TOKEN
    }

    /// Waits for list places for the next of `sequences`: for as many as a batch takes.
    async fn places(&self, sequences: &[Arc<Sequence>], deadline: Instant) -> Result<Permits, EngineError> {
        let limits = &self.queue.limits;
        let count = sequences.len().min(limits.batch_size_max).min(limits.list_places());
        let cost = sequences[..count].iter().map(|sequence| self.cost(sequence)).sum();
        let places = self.list_places.take(count, cost);
        match tokio::time::timeout_at(deadline, places).await {
            Ok(places) => Ok(places),
            Err(_) => {
                self.queue.stats.expired.add(1);
                Err(EngineError::Deadline { in_part: false })
            }
        }
    }

    /// Waits for the reply to one sequence.
    async fn reply(&self, receiver: oneshot::Receiver<queue::Reply>, deadline: Instant) -> queue::Reply {
        let replied = tokio::select! {
            biased;
            replied = tokio::time::timeout_at(deadline, receiver) => replied,
            // Queued entries are dropped by then; a running one waits for a worker that hangs.
            reason = self.state.hung().wait() => return Err(EngineError::Model(reason.clone())),
        };
        let reply = match replied {
            Err(_) => Err(EngineError::Deadline { in_part: false }),
            // The queue drops expired entries without a reply.
            Ok(Err(_)) if deadline <= Instant::now() => Err(EngineError::Deadline { in_part: false }),
            Ok(Err(_)) => Err(EngineError::Stopped),
            Ok(Ok(reply)) => reply,
        };
        if matches!(reply, Err(EngineError::Deadline { .. })) {
            self.queue.stats.expired.add(1);
        }
        reply
    }

    pub fn health(&self) -> Health {
        match self.state.broken().get() {
            Some(reason) => Health::Broken(reason.clone()),
            None if !self.queue.is_open() => Health::Stopped,
            None if !self.state.is_healthy() => Health::Failing,
            None => Health::Ready,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.health() == Health::Ready
    }

    /// Completes with the reason once the device or a worker is lost for good. The process can then only be restarted.
    pub async fn broken(&self) -> &str {
        self.state.broken().wait().await
    }

    pub fn limits(&self) -> &Limits {
        &self.queue.limits
    }

    pub fn stats(&self) -> &Stats {
        &self.queue.stats
    }

    /// Sequences and tokens in the queue.
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.waiting()
    }

    pub fn workers(&self) -> usize {
        self.state.workers()
    }

    /// Refuses new requests, completes queued ones, and joins the workers unless one of them hangs. Blocks; give it a
    /// time limit.
    pub fn stop(&self) {
        self.queue.close();
        self.state.stop();
        if self.state.hung().get().is_some() {
            return;
        }
        let workers = std::mem::take(&mut *self.worker_threads());
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker thread had panicked");
            }
        }
    }

    fn worker_threads(&self) -> impl std::ops::DerefMut<Target = Vec<std::thread::JoinHandle<()>>> {
        self.workers
            .lock()
            .expect("no thread panics while it holds the workers")
    }
}
