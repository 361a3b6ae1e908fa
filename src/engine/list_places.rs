//! Places in the queue for sequences of lists.
//!
//! Lists that wait for places take turns by cost, as the sequences in the queue do. So a short list or a score does not
//! wait for lists of hundreds of texts.

use std::sync::{Arc, Mutex, MutexGuard};

use cloze_queue::{Share, Turns};
use tokio::sync::oneshot;

/// A number of places, shared by all requests.
#[derive(Clone)]
pub struct ListPlaces(Arc<Mutex<State>>);

struct State {
    free: usize,
    waiting: Turns<Waiter>,
}

/// A request that waits for places.
struct Waiter {
    request: u64,
    /// Of the sequences that will have the places.
    cost: usize,
    places: usize,
    granted: oneshot::Sender<Places>,
}

/// Places of one request; given back when dropped.
pub struct Places {
    owner: ListPlaces,
    count: usize,
}

/// Withdraws a request that no longer waits.
struct Waiting<'a> {
    places: &'a ListPlaces,
    granted: oneshot::Receiver<Places>,
}

impl ListPlaces {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: count,
            waiting: Turns::default(),
        })))
    }

    /// Free places, `count` at most; none while requests wait for places.
    pub fn take_free(&self, count: usize) -> Places {
        let mut state = self.state();
        let count = match state.waiting.front() {
            Some(_) => 0,
            None => count.min(state.free),
        };
        state.free -= count;
        self.places(count)
    }

    /// Waits for `places` places, for sequences of `cost` in all.
    pub async fn take(&self, request: u64, cost: usize, places: usize) -> Places {
        let (granted, receiver) = oneshot::channel();
        let waiter = Waiter {
            request,
            cost,
            places,
            granted,
        };
        let mut waiting = Waiting {
            places: self,
            granted: receiver,
        };
        self.change(|state| state.waiting.push(vec![waiter]));
        let granted = (&mut waiting.granted).await;
        granted.expect("the waiter stays until it is granted or withdrawn")
    }

    /// The number of free places.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.state().free
    }

    /// Changes the state, and then grants what can be granted in the order of turns.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut granted = Vec::new();
        let mut state = self.state();
        change(&mut state);
        while let Some(next) = state.waiting.front()
            && next.places <= state.free
            && let Some(next) = state.waiting.pop()
        {
            state.free -= next.places;
            granted.push(next);
        }
        drop(state);
        for Waiter { places, granted, .. } in granted {
            // A request that has left gives them back at once.
            let _ = granted.send(self.places(places));
        }
    }

    fn places(&self, count: usize) -> Places {
        Places {
            owner: self.clone(),
            count,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics while it holds the list places")
    }
}

impl Places {
    /// One of the places, while there is any.
    pub fn split_one(&mut self) -> Option<Self> {
        self.count = self.count.checked_sub(1)?;
        Some(self.owner.places(1))
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.count > 0 {
            self.owner.change(|state| state.free += self.count);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        self.places
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
    fn a_short_list_does_not_wait_for_long_ones() {
        let places = ListPlaces::new(8);
        let mut running = places.take_free(100);
        assert_eq!(running.count, 8);
        let mut first = pin!(places.take(1, 2000, 4));
        let mut second = pin!(places.take(2, 2000, 4));
        let mut short = pin!(places.take(3, 20, 2));
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
    fn long_lists_are_not_starved_by_short_ones() {
        let places = ListPlaces::new(1);
        let mut running = places.take_free(1);
        let mut long = pin!(places.take(0, 1000, 1));
        assert!(poll(long.as_mut()).is_pending());
        for request in 1..100 {
            let mut short = pin!(places.take(request, 10, 1));
            assert!(poll(short.as_mut()).is_pending());
            drop(running);
            if poll(long.as_mut()).is_ready() {
                return;
            }
            let Poll::Ready(granted) = poll(short.as_mut()) else {
                panic!("a place is lost");
            };
            running = granted;
        }
        panic!("the long list still waits");
    }

    #[test]
    fn free_places_go_to_those_that_wait() {
        let places = ListPlaces::new(4);
        let running = places.take_free(3);
        let mut waiting = pin!(places.take(1, 10, 2));
        assert!(poll(waiting.as_mut()).is_pending());
        assert_eq!(places.take_free(1).count, 0);
        drop(running);
        assert!(poll(waiting.as_mut()).is_ready());
    }

    #[test]
    fn a_request_that_leaves_holds_up_no_other() {
        let places = ListPlaces::new(2);
        let running = places.take_free(1);
        {
            let mut leaving = pin!(places.take(1, 1, 2));
            assert!(poll(leaving.as_mut()).is_pending());
            let mut next = pin!(places.take(2, 1000, 1));
            assert!(poll(next.as_mut()).is_pending());
            leaving.set(places.take(1, 1, 2));
            assert!(poll(next.as_mut()).is_ready());
        }
        let mut leaving = Box::pin(places.take(3, 1, 2));
        assert!(poll(leaving.as_mut()).is_pending());
        drop(running);
        // It leaves after the grant and before it takes the places.
        drop(leaving);
        assert_eq!(places.free(), 2);
    }
}
