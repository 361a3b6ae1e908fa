//! The place of a request in the queue, from its head to its submission.

use std::fmt;
use std::sync::Arc;

use super::{Environment, Notify, Queue, Receiving, Refusal, State};

/// A place in the queue for a request that is not submitted yet; given back when dropped.
///
/// Until the request is [settled](Self::settle), its place is provisional: a full queue may give it to another request,
/// so that bodies that never arrive do not keep the queue full.
pub struct Admission<E: Environment> {
    queue: Arc<Queue<E>>,
    id: u64,
    displaced: Arc<E::Notify>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request arrives.
    Receiving,
    Settled,
    Submitted,
}

impl<E: Environment> Admission<E> {
    pub(super) fn new(queue: &Arc<Queue<E>>, state: &mut State<E>) -> Self {
        let id = state.admissions;
        state.admissions += 1;
        let displaced = Arc::new(E::Notify::default());
        let receiving = Receiving {
            since: E::now(),
            displaced: Arc::clone(&displaced),
        };
        state.receiving.insert(id, receiving);
        Self {
            queue: Arc::clone(queue),
            id,
            displaced,
            stage: Stage::Receiving,
        }
    }

    /// Completes when another request has taken the place.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// Keeps the place: the request has arrived whole.
    ///
    /// # Errors
    /// [`Refusal::Full`] if another request has taken the place.
    pub fn settle(&mut self) -> Result<(), E::Error> {
        if self.stage == Stage::Receiving {
            if self.queue.state().receiving.remove(&self.id).is_none() {
                return Err(Refusal::Full.into());
            }
            self.stage = Stage::Settled;
        }
        Ok(())
    }

    /// Queues the entries of the admitted request, unless the queue is closed. A full queue refuses no settled request.
    ///
    /// # Errors
    /// [`Refusal::Closed`], and [`Refusal::Full`] if another request has taken the place.
    pub fn push(mut self, entries: Vec<E::Entry>) -> Result<(), E::Error> {
        self.settle()?;
        self.stage = Stage::Submitted;
        let mut state = self.queue.state();
        state.admitted -= 1;
        self.queue.push_into(state, entries)
    }
}

impl<E: Environment> fmt::Debug for Admission<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

impl<E: Environment> Drop for Admission<E> {
    fn drop(&mut self) {
        if self.stage == Stage::Submitted {
            return;
        }
        let mut state = self.queue.state();
        // A displaced request has no place to give back.
        if state.receiving.remove(&self.id).is_some() || self.stage == Stage::Settled {
            state.admitted -= 1;
        }
    }
}
