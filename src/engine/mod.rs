//! The engine: a bounded queue of sequences, and workers that own the model and run batches.
//!
//! [`Engine::admit`] reserves a place, [`Engine::submit`] consumes it, queues a request's sequences and waits for their scores
//! until the deadline. A worker takes what is queued the moment it is free, so that a batch forms while the one before it
//! runs.
//!
//! | file | subject |
//! |---|---|
//! | `queue` | admission, limits, which sequences make the next batch |
//! | `worker` | runs batches; a failing sequence does not fail the others of its batch |
//! | `watchdog` | marks the engine broken when a batch never completes |
//! | `batch_timer` | how long each worker has waited for its model |
//! | `state` | life-cycle: workers' health, stopping, broken |
//! | `stats` | counters for metrics |
//! | `spans` | tracing of requests and batches |
//! | `sync` | the locks of the queue, which a test replaces |

mod batch_timer;
mod error;
mod queue;
mod spans;
mod state;
mod stats;
mod sync;
#[cfg(test)]
mod tests;
mod watchdog;
mod worker;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lm::{MaskedLm, Scores, Sequence};

pub use error::EngineError;
pub use queue::Admission;
use queue::{Entry, Queue};
use spans::RequestSpans;
use state::EngineState;
pub use stats::{Counter, Histogram, HistogramSnapshot, Stats};

/// Sizes of queue and batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one batch. A longer sequence is a batch by itself.
    pub batch_tokens_max: usize,
    /// Sequences of one batch.
    pub batch_size_max: usize,
    /// A batch that is not full waits this long, counted from the arrival of its first sequence.
    pub batch_delay: Duration,
    /// Queue capacity in sequences: at this many no further request is admitted.
    pub queue_size: usize,
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

/// Where the time of one request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission to the start of its last batch.
    pub queue: Duration,
    /// In the longest forward pass.
    pub inference: Duration,
}

impl Timing {
    fn max(self, other: Self) -> Self {
        Self {
            queue: self.queue.max(other.queue),
            inference: self.inference.max(other.inference),
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

/// A handle on queue and workers. The workers run until [`stop`](Engine::stop).
pub struct Engine {
    queue: Arc<Queue>,
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

    /// Starts the watchdog: a batch that runs for `limit` marks the engine [broken](Self::broken). Its requests fail with
    /// [`EngineError::Model`], queued ones with [`EngineError::Stopped`].
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

    /// Admits a request before any work is done for it, so that a refusal costs next to nothing. An admitted request has a
    /// place in the queue until it is [submitted](Self::submit) or its admission is dropped.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] and [`EngineError::Stopped`].
    pub fn admit(&self) -> Result<Admission, EngineError> {
        self.queue.admit()
    }

    /// Queues the sequences of an admitted request and waits for their scores until `deadline`. A full queue does not
    /// refuse them. Dropping the future withdraws sequences that are not computed yet.
    ///
    /// # Errors
    /// [`EngineError::Deadline`] when time is up, [`EngineError::Stopped`], else the first failure of a sequence: a request
    /// is answered whole or not at all.
    pub async fn submit(
        &self,
        admission: Admission,
        sequences: &[Arc<Sequence>],
        deadline: Instant,
    ) -> Result<(Vec<Scores>, Timing), EngineError> {
        let queued_at = Instant::now();
        let spans = RequestSpans::enter_queue();
        let mut receivers = Vec::with_capacity(sequences.len());
        let entries = sequences.iter().map(|sequence| {
            let (reply, receiver) = oneshot::channel();
            receivers.push(receiver);
            Entry {
                sequence: Arc::clone(sequence),
                queued_at,
                deadline,
                reply,
                spans: spans.clone(),
            }
        });
        admission.push(entries.collect())?;
        // From here on the entries alone hold the spans.
        drop(spans);
        let mut scores = Vec::with_capacity(receivers.len());
        let mut timing = Timing::default();
        for receiver in receivers {
            let (of_one, its_timing) = self.reply(receiver, deadline).await?;
            scores.push(of_one);
            timing = timing.max(its_timing);
        }
        Ok((scores, timing))
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
            Err(_) => Err(EngineError::Deadline),
            // The queue drops expired entries without a reply.
            Ok(Err(_)) if deadline <= Instant::now() => Err(EngineError::Deadline),
            Ok(Err(_)) => Err(EngineError::Stopped),
            Ok(Ok(reply)) => reply,
        };
        if matches!(reply, Err(EngineError::Deadline)) {
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

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.state.workers()
    }

    /// Refuses new requests, completes queued ones, and joins the workers unless one of them hangs. Blocks; give it a time
    /// limit.
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
