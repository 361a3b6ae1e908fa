//! A queue whose locks, notifications and clock are shuttle's.

use std::future::Future;
use std::ops::DerefMut;
use std::task::Poll;
use std::time::Duration;

use cloze_queue::{Counters, Environment, Lock, Refusal};
use shuttle::sync::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The environment of the queue under test.
pub struct Shuttle;

impl Environment for Shuttle {
    type Entry = Entry;
    type Limits = Limits;
    type Counters = NoCounters;
    type Error = Refusal;
    type Instant = Instant;
    type Mutex<T: Send> = ShuttleMutex<T>;
    type Notify = Notify;

    fn now() -> Instant {
        Instant::now()
    }

    async fn completes_by(deadline: Instant, event: impl Future<Output = ()> + Send) -> bool {
        tokio::time::timeout_at(deadline, event).await.is_ok()
    }

    async fn completes_soon(deadline: Instant, event: impl Future<Output = ()> + Send) -> bool {
        let mut event = std::pin::pin!(event);
        // shuttle's time limits never pass by themselves.
        while Instant::now() < deadline {
            if std::future::poll_fn(|context| Poll::Ready(event.as_mut().poll(context).is_ready())).await {
                return true;
            }
            shuttle::future::yield_now().await;
        }
        false
    }
}

/// A request of one token.
pub struct Entry {
    pub id: u32,
    pub queued_at: Instant,
    pub deadline: Instant,
    pub reply: oneshot::Sender<u32>,
}

impl cloze_queue::Share for Entry {
    fn request(&self) -> u64 {
        self.id.into()
    }

    fn cost(&self) -> usize {
        1
    }
}

impl cloze_queue::Entry for Entry {
    type Instant = Instant;

    fn tokens(&self) -> usize {
        1
    }

    fn queued_at(&self) -> Instant {
        self.queued_at
    }

    fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && now < self.deadline
    }
}

pub struct Limits {
    pub batch_tokens_max: usize,
    pub batch_size_max: usize,
    pub batch_delay: Duration,
    pub queue_size: usize,
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

#[derive(Default)]
pub struct NoCounters;

impl Counters for NoCounters {
    fn abandoned(&self, _sequences: u64) {}

    fn rejected(&self, _requests: u64) {}
}

pub struct ShuttleMutex<T>(Mutex<T>);

impl<T: Send> Lock<T> for ShuttleMutex<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn lock(&self) -> impl DerefMut<Target = T> {
        self.0.lock().expect("no task panics while it holds the queue")
    }
}

#[derive(Default)]
pub struct Notify(tokio::sync::Notify);

impl cloze_queue::Notify for Notify {
    fn notify_one(&self) {
        self.0.notify_one();
    }

    fn notified(&self) -> impl Future<Output = ()> + Send {
        self.0.notified()
    }
}
