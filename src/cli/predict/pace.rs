//! The size of a window: about a second of work, so that answers are written while the input goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Time that a window should take.
const WINDOW_TIME: Duration = Duration::from_secs(1);
/// Tokens of the first windows, which are planned before one is measured.
const FIRST_TOKENS_MAX: usize = 256;
/// The limit grows and shrinks by this factor at most from one window to the next.
const CHANGE_MAX: f64 = 4.0;

/// The limit on the tokens of a window, for the planner.
#[derive(Clone, Debug)]
pub struct TokenLimit(Arc<AtomicUsize>);

impl TokenLimit {
    /// A window closes at the line that reaches this number of tokens.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sets the limit by the rate of the last window.
#[derive(Debug)]
pub struct Pace {
    limit: TokenLimit,
    /// The end of the last window that counted.
    ended_at: Option<Instant>,
    /// Tokens of windows since then.
    tokens: usize,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            limit: TokenLimit(Arc::new(AtomicUsize::new(FIRST_TOKENS_MAX))),
            ended_at: None,
            tokens: 0,
        }
    }

    pub fn limit(&self) -> TokenLimit {
        self.limit.clone()
    }

    /// Counts an answered window, in the order of windows.
    pub fn answered(&mut self, tokens: usize, started_at: Instant, ended_at: Instant) {
        self.tokens += tokens;
        // Two windows run at the same time. The later may end first; its tokens then belong to the time of the earlier.
        let since = self.ended_at.map_or(started_at, |at| at.max(started_at));
        let elapsed = ended_at.saturating_duration_since(since);
        if elapsed.is_zero() {
            return;
        }
        self.ended_at = Some(ended_at);
        let tokens = std::mem::take(&mut self.tokens) as f64;
        let limit = self.limit.get() as f64;
        let in_window_time = tokens * WINDOW_TIME.as_secs_f64() / elapsed.as_secs_f64();
        let limit = in_window_time.clamp(limit / CHANGE_MAX, limit * CHANGE_MAX).max(1.0);
        self.limit.0.store(limit as usize, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_becomes_a_second_of_work() {
        for per_second in [20, 1_000, 50_000] {
            let (mut pace, mut now) = (Pace::new(), Instant::now());
            for _ in 0..20 {
                let (tokens, started_at) = (pace.limit().get(), now);
                now += Duration::from_secs_f64(tokens as f64 / f64::from(per_second));
                pace.answered(tokens, started_at, now);
            }
            let limit = pace.limit().get();
            assert!(limit.abs_diff(per_second as usize) <= 1, "{limit} of {per_second}");
        }
    }

    #[test]
    fn one_window_changes_the_limit_by_a_factor_of_four_at_most() {
        let (mut pace, origin) = (Pace::new(), Instant::now());
        let at = |ms| origin + Duration::from_millis(ms);
        pace.answered(256, at(0), at(1));
        assert_eq!(pace.limit().get(), 1024);
        pace.answered(1, at(1), at(60_000));
        assert_eq!(pace.limit().get(), 256);
    }

    #[test]
    fn windows_at_the_same_time_count_once() {
        let (mut pace, origin) = (Pace::new(), Instant::now());
        let at = |ms| origin + Duration::from_millis(ms);
        pace.answered(300, at(0), at(1_000));
        assert_eq!(pace.limit().get(), 300);
        // It began before the first had ended.
        pace.answered(200, at(500), at(1_500));
        assert_eq!(pace.limit().get(), 400);
        // It ended before the one in front of it.
        pace.answered(250, at(1_000), at(2_000));
        assert_eq!(pace.limit().get(), 500);
        pace.answered(250, at(1_100), at(1_900));
        assert_eq!(pace.limit().get(), 500);
        pace.answered(250, at(1_900), at(3_000));
        assert_eq!(pace.limit().get(), 500);
    }
}
