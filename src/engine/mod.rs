//! The queue, the batches and the workers that own the model.
//!
//! [`Engine::start`] moves a model onto a thread of its own; [`Engine::predict`] puts questions into the
//! bounded queue and waits for their answers until the deadline. The worker takes what is there the moment
//! it is free, so a batch forms while the one before it runs. [`Engine::start_workers`] does it with several models,
//! or several handles on one, which all take from the one queue.
//!
//! | file | what it is |
//! |---|---|
//! | `queue` | what waits, its limits, and which of it makes the next batch |
//! | `worker` | runs batches, keeps a failing one from taking others with it |
//! | `watch` | gives up when a batch never comes back |
//! | `spans` | where a text's time goes, for traces |
//! | `stats` | what the engine counts |

mod error;
mod queue;
mod spans;
mod stats;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lm::{MaskedLm, Scores, Sequence};

pub use error::EngineError;
pub use queue::Admission;
use queue::{Item, Queue};
use spans::Spans;
pub use stats::{Buckets, Stats, Timing};

const NO_PANIC: &str = "nobody panics while holding the workers";

/// How much waits and how much is computed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one batch.
    pub batch_tokens_max: usize,
    /// Texts of one batch.
    pub batch_size_max: usize,
    /// How long a batch waits for company, counted from its first text; zero by default.
    pub batch_delay: Duration,
    /// Texts that may wait: a request that finds as many is refused, whether it brings one or a list.
    pub queue_size: usize,
}

/// Whether the engine can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// The last batches of every worker failed; the next success makes it ready again.
    Failing,
    /// It was told to stop.
    Stopped,
    /// The device or the worker is lost for good; the reason is for the log.
    Broken(String),
}

/// A handle on the queue; the workers end when they are told to [`stop`](Engine::stop).
pub struct Engine {
    queue: Arc<Queue>,
    workers: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Engine {
    /// Starts one worker thread; the model belongs to it from here on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(model: Box<dyn MaskedLm>, limits: Limits) -> std::io::Result<Self> {
        Self::start_workers(vec![model], limits)
    }

    /// Starts a worker thread for each of `models`, one at least.
    ///
    /// # Errors
    /// When the system gives too few threads.
    pub fn start_workers(models: Vec<Box<dyn MaskedLm>>, limits: Limits) -> std::io::Result<Self> {
        let mut queue = Queue::new(limits);
        queue.stats = Stats::of_workers(models.len());
        let engine = Self {
            queue: Arc::new(queue),
            workers: Mutex::default(),
        };
        for (index, model) in models.into_iter().enumerate() {
            // Those that run already end with the engine.
            engine.start_worker(index, model).inspect_err(|_| engine.stop())?;
        }
        Ok(engine)
    }

    fn start_worker(&self, index: usize, model: Box<dyn MaskedLm>) -> std::io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let worker = std::thread::Builder::new()
            .name(format!("cloze-worker-{index}"))
            .spawn(move || runtime.block_on(worker::run(&queue, model)))?;
        self.workers.lock().expect(NO_PANIC).push(worker);
        Ok(())
    }

    /// From now on a batch that takes `limit` ends everything: the device hangs, its worker with it, and nothing can interrupt either.
    ///
    /// Those who wait for it are told [`EngineError::Model`], what is in the queue [`EngineError::Stopped`], and the engine is
    /// [broken](Self::broken).
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn watch(&self, limit: Duration) -> std::io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name("cloze-watch".to_owned())
            .spawn(move || runtime.block_on(watch::watch(&queue, limit)))?;
        Ok(())
    }

    /// Lets a request in before anybody works on it, so that refusing costs next to nothing. Keep the admission
    /// until the request is [queued](Self::predict): who prepares takes a place as who waits does.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] and [`EngineError::Stopped`].
    pub fn admit(&self) -> Result<Admission, EngineError> {
        self.queue.admit()
    }

    /// Queues all inputs of one request or none, and waits for their scores until `deadline`.
    ///
    /// Dropping the future withdraws what has not been computed yet.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] at once, [`EngineError::Deadline`] when time is up, the first failure of
    /// an input otherwise: a request is answered whole or not at all.
    pub async fn predict(
        &self,
        inputs: Vec<Sequence>,
        deadline: Instant,
    ) -> Result<(Vec<Scores>, Timing), EngineError> {
        let queued_at = Instant::now();
        let spans = Spans::begin();
        let mut receivers = Vec::with_capacity(inputs.len());
        let items = inputs.into_iter().map(|input| {
            let (reply, receiver) = oneshot::channel();
            receivers.push(receiver);
            Item {
                sequence: input,
                queued_at,
                deadline,
                reply,
                spans: spans.clone(),
            }
        });
        self.queue.push(items.collect())?;
        // Whoever waits keeps it.
        drop(spans);
        let mut answers = Vec::with_capacity(receivers.len());
        let mut timing = Timing::default();
        for receiver in receivers {
            let replied = tokio::select! {
                biased;
                replied = tokio::time::timeout_at(deadline, receiver) => replied,
                // What was in the queue is known by now; the rest waits for a worker that hangs.
                reason = self.queue.stats.hung().wait() => return Err(EngineError::Model(reason.clone())),
            };
            let reply = match replied {
                Err(_) => Err(EngineError::Deadline),
                // The queue drops what is too late without a word.
                Ok(Err(_)) if deadline <= Instant::now() => Err(EngineError::Deadline),
                Ok(Err(_)) => Err(EngineError::Stopped),
                Ok(Ok(reply)) => reply,
            };
            match reply {
                Ok((scores, of_one)) => {
                    answers.push(scores);
                    timing = timing.max(of_one);
                }
                Err(error) => {
                    if error == EngineError::Deadline {
                        self.queue.stats.expired.add(1);
                    }
                    return Err(error);
                }
            }
        }
        Ok((answers, timing))
    }

    /// Whether a request has a chance, and if not, why.
    pub fn health(&self) -> Health {
        let stats = &self.queue.stats;
        match stats.broken().get() {
            Some(reason) => Health::Broken(reason.clone()),
            None if !self.queue.is_open() => Health::Stopped,
            None if !stats.is_healthy() => Health::Failing,
            None => Health::Ready,
        }
    }

    /// Whether a request has a chance: the workers live, take requests, and the last batches of one did not all fail.
    pub fn is_ready(&self) -> bool {
        self.health() == Health::Ready
    }

    /// Completes with the reason once the device is lost, and with it the worker, or [hangs](Self::watch). The process can then do
    /// nothing better than to end and be started again.
    pub async fn broken(&self) -> &str {
        self.queue.stats.broken().wait().await
    }

    /// How much waits and how much is computed at once.
    pub fn limits(&self) -> &Limits {
        &self.queue.limits
    }

    /// What the engine has counted.
    pub fn stats(&self) -> &Stats {
        &self.queue.stats
    }

    /// Texts and tokens that wait at this moment.
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.waiting()
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.queue.stats.workers()
    }

    /// Takes nothing new, finishes what waits, and joins the workers, unless one of them hangs. Blocks; give it a time limit.
    pub fn stop(&self) {
        self.queue.close();
        self.queue.stats.stop_probing();
        if self.queue.stats.hung().get().is_some() {
            return;
        }
        let workers = std::mem::take(&mut *self.workers.lock().expect(NO_PANIC));
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker thread had panicked");
            }
        }
    }
}
