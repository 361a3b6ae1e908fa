//! A semaphore whose waiting requests take turns by cost, as the sequences in the queue do.
//!
//! A request that needs few permits does not wait for those that need many. Semaphores of tokio serve in the order of
//! arrival.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use super::{Share, Turns};

/// A number of permits, shared by all requests.
#[derive(Clone)]
pub struct FairSemaphore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    requests: AtomicU64,
}

struct State {
    free: usize,
    waiting: Turns<Waiter>,
}

/// A request that waits for permits.
struct Waiter {
    request: u64,
    cost: usize,
    count: usize,
    granted: oneshot::Sender<Permits>,
}

/// Permits of one request; given back when dropped.
pub struct Permits {
    owner: FairSemaphore,
    count: usize,
}

/// Withdraws a request that no longer waits.
struct Waiting<'a> {
    semaphore: &'a FairSemaphore,
    granted: oneshot::Receiver<Permits>,
}

impl FairSemaphore {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                free: count,
                waiting: Turns::default(),
            }),
            requests: AtomicU64::new(0),
        }))
    }

    /// Free permits, `count` at most; none while requests wait for permits.
    pub fn take_free(&self, count: usize) -> Permits {
        let mut state = self.state();
        let count = match state.waiting.front() {
            Some(_) => 0,
            None => count.min(state.free),
        };
        state.free -= count;
        self.permits(count)
    }

    /// Waits for `count` permits. `cost` decides on the turn: the cost of what the permits are for, in tokens or in
    /// another unit that all requests use.
    pub async fn take(&self, count: usize, cost: usize) -> Permits {
        let (granted, receiver) = oneshot::channel();
        let waiter = Waiter {
            request: self.0.requests.fetch_add(1, Ordering::Relaxed),
            cost,
            count,
            granted,
        };
        let mut waiting = Waiting {
            semaphore: self,
            granted: receiver,
        };
        self.change(|state| state.waiting.push(vec![waiter]));
        let granted = (&mut waiting.granted).await;
        granted.expect("the waiter stays until it is granted or withdrawn")
    }

    /// The number of free permits.
    pub fn free(&self) -> usize {
        self.state().free
    }

    /// Changes the state, and then grants what can be granted in the order of turns.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut granted = Vec::new();
        let mut state = self.state();
        change(&mut state);
        while let Some(next) = state.waiting.front()
            && next.count <= state.free
            && let Some(next) = state.waiting.pop()
        {
            state.free -= next.count;
            granted.push(next);
        }
        drop(state);
        for Waiter { count, granted, .. } in granted {
            // A request that has left gives them back at once.
            let _ = granted.send(self.permits(count));
        }
    }

    fn permits(&self, count: usize) -> Permits {
        Permits {
            owner: self.clone(),
            count,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .state
            .lock()
            .expect("no thread panics while it holds the semaphore")
    }
}

impl std::fmt::Debug for Permits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Permits").field(&self.count).finish()
    }
}

impl Permits {
    /// One of the permits, while there is any.
    pub fn split_one(&mut self) -> Option<Self> {
        self.count = self.count.checked_sub(1)?;
        Some(self.owner.permits(1))
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        if self.count > 0 {
            self.owner.change(|state| state.free += self.count);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        self.semaphore
            .change(|state| state.waiting.retain(|waiter| !waiter.granted.is_closed()));
    }
}

impl Share for Waiter {
    fn request(&self) -> u64 {
        self.request
    }

    fn cost(&self) -> usize {
        self.cost
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn few_permits_do_not_wait_for_many() {
        let semaphore = FairSemaphore::new(8);
        let mut running = semaphore.take_free(100);
        assert_eq!(running.count, 8);
        let mut first = pin!(semaphore.take(4, 2000));
        let mut second = pin!(semaphore.take(4, 2000));
        let mut short = pin!(semaphore.take(2, 20));
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(short.as_mut()).is_pending());
        drop(running.split_one());
        assert!(poll(short.as_mut()).is_pending(), "it needs two");
        drop(running.split_one());
        let Poll::Ready(short) = poll(short.as_mut()) else {
            panic!("it waits for the long ones");
        };
        assert_eq!(short.count, 2);
        drop(short);
        drop(running);
        assert!(poll(first.as_mut()).is_ready() && poll(second.as_mut()).is_ready());
    }

    #[test]
    fn expensive_requests_are_not_starved_by_cheap_ones() {
        let semaphore = FairSemaphore::new(1);
        let mut running = semaphore.take_free(1);
        let mut long = pin!(semaphore.take(1, 1000));
        assert!(poll(long.as_mut()).is_pending());
        for _ in 1..100 {
            let mut short = pin!(semaphore.take(1, 10));
            assert!(poll(short.as_mut()).is_pending());
            drop(running);
            if poll(long.as_mut()).is_ready() {
                return;
            }
            let Poll::Ready(granted) = poll(short.as_mut()) else {
                panic!("a permit is lost");
            };
            running = granted;
        }
        panic!("the expensive request still waits");
    }

    #[test]
    fn free_permits_go_to_those_that_wait() {
        let semaphore = FairSemaphore::new(4);
        let running = semaphore.take_free(3);
        let mut waiting = pin!(semaphore.take(2, 10));
        assert!(poll(waiting.as_mut()).is_pending());
        assert_eq!(semaphore.take_free(1).count, 0);
        drop(running);
        assert!(poll(waiting.as_mut()).is_ready());
    }

    #[test]
    fn a_request_that_leaves_holds_up_no_other() {
        let semaphore = FairSemaphore::new(2);
        let running = semaphore.take_free(1);
        {
            let mut leaving = pin!(semaphore.take(2, 1));
            assert!(poll(leaving.as_mut()).is_pending());
            let mut next = pin!(semaphore.take(1, 1000));
            assert!(poll(next.as_mut()).is_pending());
            leaving.set(semaphore.take(2, 1));
            assert!(poll(next.as_mut()).is_ready());
        }
        let mut leaving = Box::pin(semaphore.take(2, 1));
        assert!(poll(leaving.as_mut()).is_pending());
        drop(running);
        // It leaves after the grant and before it takes the permits.
        drop(leaving);
        assert_eq!(semaphore.free(), 2);
    }
}
