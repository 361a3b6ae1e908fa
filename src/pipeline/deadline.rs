//! The moment until which a request must be answered.

use std::time::Duration;

use tokio::time::Instant;

/// A deadline, and the time limit that it came from.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    pub at: Instant,
    /// For the error that the client gets.
    pub timeout: Duration,
    /// The client chose it.
    pub shortened: bool,
}

/// Practically no limit, and far from the end of the clock.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        let timeout = timeout.min(NEVER);
        Self {
            at: Instant::now() + timeout,
            timeout,
            shortened: false,
        }
    }

    pub fn never() -> Self {
        Self::after(NEVER)
    }

    /// The earlier of this deadline and `timeout` from now, which a client chose.
    pub fn within(self, timeout: Duration) -> Self {
        let other = Self {
            shortened: true,
            ..Self::after(timeout)
        };
        if other.at < self.at { other } else { self }
    }
}

/// A time limit in words: in milliseconds, or in microseconds below one.
pub fn limit_in_words(limit: Duration) -> String {
    match limit.as_millis() {
        0 => format!("{} µs", limit.as_micros()),
        milliseconds => format!("{milliseconds} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_only_come_nearer() {
        let minute = Duration::from_secs(60);
        let deadline = Deadline::after(minute);
        let nearer = deadline.within(Duration::from_secs(1));
        assert_eq!((nearer.at - Instant::now()).as_secs(), 1);
        assert_eq!(nearer.timeout.as_secs(), 1);
        assert!(nearer.shortened && !deadline.shortened);
        for longer in [2 * minute, Duration::MAX] {
            let same = deadline.within(longer);
            assert_eq!((same.at, same.timeout), (deadline.at, minute));
        }
    }

    #[test]
    fn a_limit_below_a_millisecond_is_not_zero() {
        assert_eq!(limit_in_words(Duration::from_micros(999)), "999 µs");
        assert_eq!(limit_in_words(Duration::from_micros(1999)), "1 ms");
        assert_eq!(limit_in_words(Duration::from_secs(30)), "30000 ms");
    }
}
