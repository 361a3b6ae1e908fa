//! Rate-limited logging: the first event at once, then one line per interval with a count. The count of the last events
//! is logged once the interval is over, and at the stop.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Rate limit of one kind of log line.
#[derive(Debug)]
pub struct ThrottledLog {
    interval: Duration,
    /// Logs a number of events that have no line.
    write_count: fn(u64),
    state: Mutex<State>,
    suppressed: Notify,
}

#[derive(Debug, Default)]
struct State {
    logged_at: Option<Instant>,
    /// Events since the last line.
    count: u64,
}

impl ThrottledLog {
    /// At most one line per `interval`. `write_count` logs events that no later event logs.
    pub fn new(interval: Duration, write_count: fn(u64)) -> Self {
        Self {
            interval,
            write_count,
            state: Mutex::default(),
            suppressed: Notify::new(),
        }
    }

    /// Counts an event. Calls `write` with the events since the last line, if a line is due.
    pub fn log(&self, write: impl FnOnce(u64)) {
        let mut state = self.state();
        state.count += 1;
        let now = Instant::now();
        if state.logged_at.is_some_and(|at| now - at < self.interval) {
            if state.count == 1 {
                self.suppressed.notify_one();
            }
            return;
        }
        let count = std::mem::take(&mut state.count);
        state.logged_at = Some(now);
        drop(state);
        write(count);
    }

    /// Logs the count of events without a line whenever an interval is over. Sleeps while there are none.
    pub async fn log_counts(&self) -> Infallible {
        loop {
            match self.due_at() {
                None => self.suppressed.notified().await,
                Some(at) if Instant::now() < at => tokio::time::sleep_until(at).await,
                Some(_) => self.log_count(),
            }
        }
    }

    /// Logs the count of events without a line now, if there are any.
    pub fn log_count(&self) {
        let mut state = self.state();
        let count = std::mem::take(&mut state.count);
        if count == 0 {
            return;
        }
        state.logged_at = Some(Instant::now());
        drop(state);
        (self.write_count)(count);
    }

    /// The time at which the events without a line are logged, if there are any.
    fn due_at(&self) -> Option<Instant> {
        let state = self.state();
        let logged_at = state.logged_at.filter(|_| state.count > 0);
        logged_at.map(|at| at + self.interval)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn one_line_per_interval_with_the_count() {
        let (log, mut lines) = (ThrottledLog::new(INTERVAL, |_| ()), Vec::new());
        for _ in 0..250 {
            log.log(|count| lines.push(count));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(lines, [1, 100, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_events_are_counted_after_the_interval_and_at_the_stop() {
        static COUNTED: AtomicU64 = AtomicU64::new(0);
        let counted = || COUNTED.swap(0, Ordering::Relaxed);
        let write_count = |count| COUNTED.store(count, Ordering::Relaxed);
        let log = Arc::new(ThrottledLog::new(INTERVAL, write_count));
        let counting = Arc::clone(&log);
        let counting = tokio::spawn(async move { counting.log_counts().await });
        for _ in 0..2 {
            for _ in 0..31 {
                log.log(|_| ());
            }
            tokio::time::sleep(INTERVAL - Duration::from_millis(1)).await;
            assert_eq!(counted(), 0);
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(counted(), 30);
            // A line is due again.
            tokio::time::sleep(INTERVAL).await;
            assert_eq!(counted(), 0);
        }
        counting.abort();
        (0..6).for_each(|_| log.log(|_| ()));
        log.log_count();
        assert_eq!(counted(), 5);
        log.log_count();
        assert_eq!(counted(), 0);
    }
}
