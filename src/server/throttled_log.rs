//! Rate-limited logging: the first event at once, then one line per interval with a count.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Rate limit of one kind of log line.
#[derive(Debug)]
pub struct ThrottledLog {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logged_at: Option<Instant>,
    /// Events since the last line.
    count: u64,
}

impl ThrottledLog {
    /// At most one line per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            state: Mutex::default(),
        }
    }

    /// Counts an event. Calls `write` with the events since the last line, if a line is due.
    pub fn log(&self, write: impl FnOnce(u64)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let now = Instant::now();
        if state.logged_at.is_some_and(|at| now - at < self.interval) {
            return;
        }
        let count = std::mem::take(&mut state.count);
        state.logged_at = Some(now);
        drop(state);
        write(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_per_interval_with_the_count() {
        let (log, mut lines) = (ThrottledLog::new(Duration::from_secs(10)), Vec::new());
        for _ in 0..250 {
            log.log(|count| lines.push(count));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(lines, [1, 100, 100]);
    }
}
