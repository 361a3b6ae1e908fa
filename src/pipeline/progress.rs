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
    /// Timeouts in a row before requests were planned.
    planning: AtomicU32,
    /// Timeouts in a row of planned requests.
    answers: AtomicU32,
}

impl Progress {
    /// Notes that planning has ended, with the request's plan or its refusal, or by the deadline. A deadline that a
    /// client chose says nothing about the server.
    pub fn planned(&self, is_timeout: bool, deadline: Deadline) {
        count(&self.planning, is_timeout, deadline);
    }

    /// Notes the end of a planned request. A refusal says nothing about requests that reach the model.
    pub fn answered(&self, error: Option<&Error>, deadline: Deadline) {
        match error {
            Some(Error::Timeout(_)) => count(&self.answers, true, deadline),
            None => count(&self.answers, false, deadline),
            Some(_) => {}
        }
    }

    #[cfg(test)]
    pub fn timeouts(&self) -> u32 {
        self.answers.load(Ordering::Relaxed) + self.planning.load(Ordering::Relaxed)
    }

    /// False while requests do not get through; true again once none is left, so that a balancer sends new ones.
    pub fn is_ready(&self, requests: usize, thread_wait: Duration) -> bool {
        let timeouts = [&self.planning, &self.answers].map(|count| count.load(Ordering::Relaxed));
        let time_out = timeouts.into_iter().any(|count| count >= TIMEOUTS_IN_A_ROW_MAX);
        !(time_out && requests > 0) && thread_wait < THREAD_WAIT_MAX
    }
}

fn count(timeouts: &AtomicU32, is_timeout: bool, deadline: Deadline) {
    let next = |count: u32| match is_timeout {
        true if deadline.shortened => None,
        true => Some(count.saturating_add(1)),
        false => Some(0),
    };
    let _ = timeouts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
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
            progress.answered(Some(&timeout), deadline);
        }
        assert!(!ready(1));
        progress.answered(Some(&Error::Overloaded), deadline);
        assert!(!ready(1), "only an answer counts");
        assert!(ready(0));
        progress.answered(None, deadline);
        assert!(ready(1));
        // A client that sets short deadlines does not take the replica out.
        for _ in 0..2 * TIMEOUTS_IN_A_ROW_MAX {
            progress.answered(Some(&timeout), deadline.within(Duration::from_millis(1)));
        }
        assert!(ready(1));
    }

    #[test]
    fn timeouts_of_planning_count_until_a_request_is_planned() {
        let progress = Progress::default();
        let deadline = Deadline::after(Duration::from_secs(1));
        for _ in 0..TIMEOUTS_IN_A_ROW_MAX {
            assert!(progress.is_ready(1, Duration::ZERO));
            progress.planned(true, deadline);
        }
        assert!(!progress.is_ready(1, Duration::ZERO));
        progress.answered(None, deadline);
        assert!(!progress.is_ready(1, Duration::ZERO), "it was planned before");
        progress.planned(false, deadline);
        assert!(progress.is_ready(1, Duration::ZERO));
    }

    #[test]
    fn work_that_gets_no_thread_counts() {
        let progress = Progress::default();
        assert!(progress.is_ready(1, THREAD_WAIT_MAX / 2));
        assert!(!progress.is_ready(1, THREAD_WAIT_MAX));
    }
}
