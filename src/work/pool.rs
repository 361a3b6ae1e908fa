//! Threads that run the slices of requests.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::SLICE_END;
use super::fair::{FairQueue, Place};
use crate::sys::panics;

/// Length of a slice. A request that finds the threads busy waits about this long for each request that arrived before
/// it.
const SLICE: Duration = Duration::from_millis(1);

/// Work without a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    #[error("the work panicked: {0}")]
    Panicked(String),
    #[error("the threads for requests have stopped")]
    Stopped,
}

/// Threads for the CPU work of requests, all of them started at once. They end when the pool is dropped.
pub struct WorkPool {
    shared: Arc<Shared>,
    threads: usize,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes a thread when there is work, or the pool stops.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: FairQueue<Job>,
    running: usize,
    stopped: bool,
    /// Runs once no request has work.
    when_idle: Option<fn()>,
}

struct Job {
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Set when the result is no longer wanted.
    dropped: Arc<AtomicBool>,
    /// Since when it has waited for a thread.
    ready_at: Instant,
}

/// The result of work, once it is there. Dropping it ends the work at the next checkpoint.
pub struct Task<T> {
    result: oneshot::Receiver<Result<T, WorkError>>,
    _cancel: CancelOnDrop,
}

struct CancelOnDrop {
    id: u64,
    dropped: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl WorkPool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system starts fewer.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let pool = Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            threads,
        };
        for index in 0..threads {
            let shared = Arc::clone(&pool.shared);
            std::thread::Builder::new()
                .name(format!("cloze-request-{index}"))
                .spawn(move || shared.run())?;
        }
        Ok(pool)
    }

    /// Runs `work`, which awaits checkpoints alone, in slices.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let (sender, result) = oneshot::channel();
        let dropped = Arc::new(AtomicBool::new(false));
        let work = Guarded(Some(Box::pin(work)));
        let job = Job {
            work: Box::pin(async move {
                // Fails if the task was dropped meanwhile.
                let _ = sender.send(work.await);
            }),
            dropped: Arc::clone(&dropped),
            ready_at: Instant::now(),
        };
        let mut state = self.shared.state();
        // A stopped pool drops the job, and with it the sender.
        let id = match state.stopped {
            true => u64::MAX,
            false => state.ready.push(job),
        };
        drop(state);
        self.shared.changed.notify_one();
        Task {
            result,
            _cancel: CancelOnDrop {
                id,
                dropped,
                shared: Arc::clone(&self.shared),
            },
        }
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Has a thread call `work` once no request has work. A later call replaces one that waits.
    pub fn run_when_idle(&self, work: fn()) {
        self.shared.state().when_idle = Some(work);
        self.shared.changed.notify_one();
    }

    /// The time for which the work at the head of the queue has waited for a thread.
    pub fn longest_wait(&self) -> Duration {
        let state = self.shared.state();
        let waits = state.ready.iter().map(|job| job.ready_at.elapsed());
        waits.max().unwrap_or_default()
    }

    /// Requests with work that is not complete.
    pub fn len(&self) -> usize {
        let state = self.shared.state();
        state.ready.len() + state.running
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.shared.state().running
    }
}

impl Drop for WorkPool {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        let unfinished = state.ready.take_all();
        drop(state);
        self.shared.changed.notify_all();
        drop(unfinished);
    }
}

impl Shared {
    /// The loop of one thread.
    fn run(&self) {
        let mut state = self.state();
        loop {
            if state.stopped {
                return;
            }
            let Some((place, job)) = state.ready.pop() else {
                if state.running == 0
                    && let Some(work) = state.when_idle.take()
                {
                    drop(state);
                    work();
                    state = self.state();
                    continue;
                }
                state = self
                    .changed
                    .wait(state)
                    .expect("no thread panics while it holds the state");
                continue;
            };
            state.running += 1;
            drop(state);
            let (took, unfinished) = job.slice();
            state = self.state();
            state.running -= 1;
            let requests = state.ready.len() + state.running + 1;
            state.ready.worked(took, requests);
            if let Some(job) = unfinished {
                state = self.put_back(state, place, took, job);
            }
        }
    }

    /// Puts a job back, unless it was cancelled while it ran.
    fn put_back<'a>(
        &'a self,
        mut state: std::sync::MutexGuard<'a, State>,
        place: Place,
        took: Duration,
        mut job: Job,
    ) -> std::sync::MutexGuard<'a, State> {
        // Under the lock, so that a cancellation sees the job here or finds it in the queue.
        if state.stopped || job.dropped.load(Ordering::Relaxed) {
            drop(state);
            // Frees what the job holds, outside of the lock.
            drop(job);
            return self.state();
        }
        job.ready_at = Instant::now();
        state.ready.put_back(place, took, job);
        state
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the state")
    }
}

impl Job {
    /// Runs one slice; returns its time, and the job unless it is done.
    fn slice(mut self) -> (Duration, Option<Self>) {
        let started_at = Instant::now();
        SLICE_END.set(Some(started_at + SLICE));
        let polled = self.work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        SLICE_END.set(None);
        let unfinished = polled.is_pending().then_some(self);
        (started_at.elapsed(), unfinished)
    }
}

/// Work whose panics are results. It is dropped as soon as it is done.
struct Guarded<T>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> Future for Guarded<T> {
    type Output = Result<T, WorkError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.0.as_mut().expect("polled after its end");
        let result = match panics::catch(|| work.as_mut().poll(context)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => Ok(done),
            Err(panic) => Err(WorkError::Panicked(
                panic.message().unwrap_or("without a message").to_owned(),
            )),
        };
        self.0 = None;
        Poll::Ready(result)
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, WorkError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.result).poll(context);
        result.map(|received| received.unwrap_or(Err(WorkError::Stopped)))
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        self.dropped.store(true, Ordering::Relaxed);
        let queued = state.ready.remove(self.id);
        drop(state);
        drop(queued);
    }
}
