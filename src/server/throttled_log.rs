//! Lines in the log about what goes on and on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Tells of something at once, and then once in an interval with how often it was.
#[derive(Debug)]
pub struct NowAndThen {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told_at: Option<Instant>,
    /// Since it was told.
    count: u64,
}

impl NowAndThen {
    /// Once in `interval` at most.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            state: Mutex::default(),
        }
    }

    /// Counts it, and lets `tell` have the count if it is time.
    pub fn tell(&self, tell: impl FnOnce(u64)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let now = Instant::now();
        if state.told_at.is_some_and(|at| now - at < self.interval) {
            return;
        }
        let count = std::mem::take(&mut state.count);
        state.told_at = Some(now);
        drop(state);
        tell(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_once_in_an_interval_with_its_count() {
        let (it, mut told) = (NowAndThen::new(Duration::from_secs(10)), Vec::new());
        for _ in 0..250 {
            it.tell(|count| told.push(count));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, [1, 100, 100]);
    }
}
