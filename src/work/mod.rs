//! CPU work of requests outside the model, in short slices, so that cheap requests do not wait for expensive ones.
//!
//! Tokenizing and decoding are `async` functions that call [`checkpoint`] between units of work of some microseconds.
//! On a [`WorkPool`] a checkpoint gives the thread to another request once the slice is used up; outside of a pool it
//! does nothing, and [`run_to_end`] runs such a function like any other.
//!
//! | file | subject |
//! |---|---|
//! | `budget` | the bound on one request's work |
//! | `pool` | threads that run slices; departure of the client |
//! | `fair` | which slice is next |

mod budget;
mod fair;
mod pool;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

pub use budget::{TooMuchWork, WorkBudget};
pub use pool::{Task, WorkError, WorkPool};

thread_local! {
    /// The end of the slice that this thread runs; `None` outside of a pool.
    static SLICE_END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Ends the slice if its time is used up. Call it between units of work that take some microseconds each.
pub async fn checkpoint() {
    if SLICE_END.get().is_some_and(|end| Instant::now() >= end) {
        Yield { yielded: false }.await;
    }
}

/// Pending once. The pool polls again without being woken.
struct Yield {
    yielded: bool,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.yielded, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Runs `work`, which awaits checkpoints alone, on the calling thread.
///
/// # Panics
/// If `work` awaits anything else.
pub fn run_to_end<T>(work: impl Future<Output = T>) -> T {
    // A pool's thread that calls this must not leave in the middle.
    let slice_end = SLICE_END.replace(None);
    let polled = pin!(work).poll(&mut Context::from_waker(Waker::noop()));
    SLICE_END.set(slice_end);
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("work outside of a pool awaits checkpoints alone"),
    }
}
