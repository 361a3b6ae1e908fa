//! Waits for clients that have just been answered.
//!
//! A batch of few tokens takes hardly longer for two sequences than for one. Two clients that send their next text once
//! they have an answer would take turns all the same, one text a batch: while the text of one is computed, that of the
//! other arrives. So a worker that has answered requests, and finds fewer tokens in the queue than make a batch
//! efficient, waits a moment for the next requests of the same clients. A client alone never waits: its request is all
//! that was answered. Clients that do not return make the waits rare: each wait in vain doubles the number of batches
//! until the next.

use std::time::Duration;

use crate::Queue;
use crate::environment::{Environment, Notify};

/// A batch of this cost gains at most a tenth from more sequences (bert-base and the demo model, AVX2).
const COST_MAX: usize = 64;

/// Part of the last batch's time that a wait takes at most.
const PART_OF_BATCH: u32 = 4;

/// The longest wait: a client in the same network returns sooner.
const WAIT_MAX: Duration = Duration::from_millis(4);

/// Most batches without a wait after waits in vain.
const SKIPPED_MAX: u32 = 64;

/// A worker's expectation of the next requests of those clients that it has answered last.
pub struct Returning<E: Environment> {
    answered: Option<Answered<E>>,
    /// Batches without a wait after the last wait in vain.
    skipped: u32,
    /// Those of them that are still to come.
    to_skip: u32,
}

struct Answered<E: Environment> {
    /// The queue's count of pushes when as many requests have arrived as were answered.
    pushes: u64,
    until: E::Instant,
}

impl<E: Environment> Default for Returning<E> {
    fn default() -> Self {
        Self {
            answered: None,
            skipped: 0,
            to_skip: 0,
        }
    }
}

impl<E: Environment> Returning<E> {
    /// Call this before the answers of a batch are sent: `requests` were in it, and the model took `took`.
    pub fn answering(&mut self, queue: &Queue<E>, requests: usize, took: Duration) {
        self.answered = None;
        if self.to_skip > 0 {
            self.to_skip -= 1;
            return;
        }
        self.answered = Some(Answered {
            pushes: queue.state().pushes + requests as u64,
            until: E::now() + WAIT_MAX.min(took / PART_OF_BATCH),
        });
    }

    fn returned(&mut self) {
        self.skipped /= 2;
    }

    fn missed(&mut self) {
        self.skipped = (2 * self.skipped + 1).min(SKIPPED_MAX);
        self.to_skip = self.skipped;
    }
}

impl<E: Environment> Queue<E> {
    /// Waits until as many requests have arrived as were answered last, unless the queue has enough for a batch.
    pub(crate) async fn wait_for_returning(&self, returning: &mut Returning<E>) {
        let Some(answered) = returning.answered.take() else {
            return;
        };
        let mut has_waited = false;
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.closed || state.cost >= COST_MAX || state.fills_a_batch(&self.limits) {
                    return;
                }
                if state.pushes >= answered.pushes {
                    if has_waited {
                        returning.returned();
                    }
                    return;
                }
            }
            if E::now() >= answered.until {
                if has_waited {
                    returning.missed();
                }
                return;
            }
            has_waited = true;
            E::completes_soon(answered.until, changed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::{Counters, Entry, Limits, Refusal, Share};

    const BATCH: Duration = Duration::from_millis(8);
    const SOON: Duration = Duration::from_millis(1);

    thread_local! {
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        /// Texts that arrive while the worker waits, by time.
        static ARRIVALS: RefCell<VecDeque<(Duration, Text)>> = const { RefCell::new(VecDeque::new()) };
        static QUEUE: RefCell<Option<Arc<Queue<Simulated>>>> = const { RefCell::new(None) };
    }

    /// A request of one sequence.
    #[derive(Clone, Copy)]
    struct Text {
        request: u64,
        tokens: usize,
    }

    impl Share for Text {
        fn request(&self) -> u64 {
            self.request
        }

        fn cost(&self) -> usize {
            self.tokens
        }
    }

    impl Entry for Text {
        type Instant = Duration;

        fn tokens(&self) -> usize {
            self.tokens
        }

        fn queued_at(&self) -> Duration {
            Duration::ZERO
        }

        fn is_wanted(&self, _: Duration) -> bool {
            true
        }
    }

    struct Sizes;

    impl Limits for Sizes {
        fn batch_tokens_max(&self) -> usize {
            1000
        }

        fn batch_size_max(&self) -> usize {
            3
        }

        fn batch_delay(&self) -> Duration {
            Duration::ZERO
        }

        fn queue_size(&self) -> usize {
            100
        }
    }

    #[derive(Default)]
    struct Uncounted;

    impl Counters for Uncounted {
        fn abandoned(&self, _: u64) {}

        fn rejected(&self, _: u64) {}
    }

    /// The clock goes on while a batch runs and while the worker waits.
    struct Simulated;

    impl Environment for Simulated {
        type Entry = Text;
        type Limits = Sizes;
        type Counters = Uncounted;
        type Error = Refusal;
        type Instant = Duration;
        type Mutex<T: Send> = Mutex<T>;
        type Notify = tokio::sync::Notify;

        fn now() -> Duration {
            NOW.get()
        }

        async fn completes_by(_: Duration, _: impl Future<Output = ()> + Send) -> bool {
            unreachable!("there is no batch delay")
        }

        async fn completes_soon(deadline: Duration, _: impl Future<Output = ()> + Send) -> bool {
            let next = ARRIVALS.with_borrow_mut(|arrivals| arrivals.pop_front_if(|(at, _)| *at <= deadline));
            NOW.set(next.map_or(deadline, |(at, _)| at));
            if let Some((_, text)) = next {
                push(text);
            }
            next.is_some()
        }
    }

    fn push(text: Text) {
        QUEUE.with_borrow(|queue| queue.as_ref().unwrap().admit().unwrap().push(vec![text]).unwrap());
    }

    /// Takes a batch, while the clients `returning_at` send a text of 9 tokens so long after the last answers, and runs
    /// it, while the texts `meanwhile` arrive. Returns its requests, and how long the worker waited for it.
    fn batch(
        returning: &mut Returning<Simulated>,
        returning_at: &[(Duration, u64)],
        meanwhile: &[Text],
    ) -> (Vec<u64>, Duration) {
        let started_at = NOW.get();
        let arrivals = returning_at
            .iter()
            .map(|&(after, request)| (started_at + after, text(request)));
        ARRIVALS.set(arrivals.collect());
        let queue = QUEUE.with_borrow(|queue| Arc::clone(queue.as_ref().unwrap()));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(batch) = pin!(queue.next_batch_after(returning)).poll(&mut context) else {
            panic!("a text is in the queue");
        };
        let requests: Vec<u64> = batch.unwrap().iter().map(Share::request).collect();
        let waited = NOW.get() - started_at;
        NOW.set(NOW.get() + BATCH);
        meanwhile.iter().copied().for_each(push);
        returning.answering(&queue, requests.len(), BATCH);
        (requests, waited)
    }

    fn text(request: u64) -> Text {
        Text { request, tokens: 9 }
    }

    fn start(queued: &[Text]) -> Returning<Simulated> {
        NOW.set(Duration::ZERO);
        QUEUE.set(Some(Arc::new(Queue::new(Sizes))));
        queued.iter().copied().for_each(push);
        Returning::default()
    }

    #[test]
    fn two_clients_share_batches() {
        let mut returning = start(&[text(1)]);
        assert_eq!(batch(&mut returning, &[], &[text(2)]), (vec![1], Duration::ZERO));
        // The second client's text has arrived meanwhile; the first client comes back.
        assert_eq!(batch(&mut returning, &[(SOON, 1)], &[]), (vec![2, 1], SOON));
        for _ in 0..20 {
            // The first text after the answers begins the wait.
            push(text(1));
            assert_eq!(batch(&mut returning, &[(SOON, 2)], &[]), (vec![1, 2], SOON));
        }
    }

    #[test]
    fn a_client_alone_never_waits() {
        let mut returning = start(&[text(1)]);
        for _ in 0..20 {
            assert_eq!(batch(&mut returning, &[], &[]), (vec![1], Duration::ZERO));
            push(text(1));
        }
    }

    #[test]
    fn waits_in_vain_become_rare() {
        let mut returning = start(&[text(0)]);
        let mut waits = Vec::new();
        // Each client asks once.
        for request in 0..200 {
            let (requests, waited) = batch(&mut returning, &[], &[text(request + 1)]);
            assert_eq!(requests, [request]);
            waits.extend((!waited.is_zero()).then_some((request, waited)));
        }
        let batches: Vec<u64> = waits.iter().map(|(request, _)| *request).collect();
        // 1, 3, 7, 15, 31, 63 and 64 batches without a wait lie between them.
        assert_eq!(batches, [1, 3, 7, 15, 31, 63, 127, 192]);
        assert!(waits.iter().all(|(_, waited)| *waited == BATCH / PART_OF_BATCH));
    }

    #[test]
    fn a_wait_has_a_limit() {
        let mut returning = start(&[text(1)]);
        batch(&mut returning, &[], &[text(2)]);
        returning.answering(
            &QUEUE.with_borrow(|queue| Arc::clone(queue.as_ref().unwrap())),
            1,
            100 * BATCH,
        );
        assert_eq!(batch(&mut returning, &[], &[]), (vec![2], WAIT_MAX));
    }

    #[test]
    fn enough_in_the_queue_does_not_wait() {
        let long = Text {
            request: 2,
            tokens: COST_MAX,
        };
        for (meanwhile, expected) in [(vec![long], vec![2]), (vec![text(2), text(3), text(4)], vec![2, 3, 4])] {
            let mut returning = start(&[text(1)]);
            batch(&mut returning, &[], &meanwhile);
            assert_eq!(batch(&mut returning, &[(SOON, 1)], &[]), (expected, Duration::ZERO));
        }
    }

    #[test]
    fn a_closed_queue_does_not_wait() {
        let mut returning = start(&[text(1)]);
        batch(&mut returning, &[], &[text(2)]);
        QUEUE.with_borrow(|queue| queue.as_ref().unwrap().close());
        assert_eq!(batch(&mut returning, &[], &[]), (vec![2], Duration::ZERO));
    }
}
