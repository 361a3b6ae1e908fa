//! Notices when requests no longer get through, although the model works.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Deadline, Error};

/// With this many timeouts in a row, requests do not get through.
const TIMEOUTS_IN_A_ROW_MAX: u32 = 8;

/// Work that waits this long for a thread does not get through. A thread gives way every millisecond.
const THREAD_WAIT_MAX: Duration = Duration::from_secs(5);

/// The outcomes of the latest requests.
#[derive(Debug, Default)]
pub struct Progress {
    timeouts_in_a_row: AtomicU32,
}

impl Progress {
    /// Notes the end of a request. A deadline that a client chose says nothing about the server.
    pub fn note(&self, error: Option<&Error>, deadline: Deadline) {
        match error {
            Some(Error::Timeout(_)) if deadline.shortened => {}
            Some(Error::Timeout(_)) => {
                let one_more = |count: u32| Some(count.saturating_add(1));
                let _ = self
                    .timeouts_in_a_row
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            }
            None => self.timeouts_in_a_row.store(0, Ordering::Relaxed),
            // A refusal says nothing about requests that reach the model.
            Some(_) => {}
        }
    }

    #[cfg(test)]
    pub fn timeouts(&self) -> u32 {
        self.timeouts_in_a_row.load(Ordering::Relaxed)
    }

    /// False while requests do not get through; true again once none is left, so that a balancer sends new ones.
    pub fn is_ready(&self, requests: usize, thread_wait: Duration) -> bool {
        let time_out = self.timeouts_in_a_row.load(Ordering::Relaxed) >= TIMEOUTS_IN_A_ROW_MAX;
        !(time_out && requests > 0) && thread_wait < THREAD_WAIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_in_a_row_count_until_a_request_gets_through_or_none_is_left() {
        let progress = Progress::default();
        let deadline = Deadline::after(Duration::from_secs(1));
        let timeout = Error::Timeout(deadline.timeout);
        let ready = |requests| progress.is_ready(requests, Duration::ZERO);
        for _ in 0..TIMEOUTS_IN_A_ROW_MAX {
            assert!(ready(1));
            progress.note(Some(&timeout), deadline);
        }
        assert!(!ready(1));
        progress.note(Some(&Error::Overloaded), deadline);
        assert!(!ready(1), "only an answer counts");
        assert!(ready(0));
        progress.note(None, deadline);
        assert!(ready(1));
        // A client that sets short deadlines does not take the replica out.
        for _ in 0..2 * TIMEOUTS_IN_A_ROW_MAX {
            progress.note(Some(&timeout), deadline.within(Duration::from_millis(1)));
        }
        assert!(ready(1));
    }

    #[test]
    fn work_that_gets_no_thread_counts() {
        let progress = Progress::default();
        assert!(progress.is_ready(1, THREAD_WAIT_MAX / 2));
        assert!(!progress.is_ready(1, THREAD_WAIT_MAX));
    }
}
