//! Watchdog. A hung driver call cannot be interrupted, so a separate thread marks the engine broken when a batch runs
//! longer than the limit.

use std::time::Duration;

use tokio::time::Instant;

use super::queue::Queue;
use super::state::EngineState;

/// Returns when the engine stops, or once a batch has run for `limit`: then the queue is abandoned and the engine hung.
pub async fn watch(queue: &Queue, state: &EngineState, limit: Duration) {
    loop {
        let now = Instant::now();
        // A batch that starts later cannot be overdue earlier.
        let overdue_at = state.running_since().unwrap_or(now) + limit;
        if overdue_at <= now {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(overdue_at) => {}
            _ = state.stopping().wait() => return,
        }
    }
    queue.abandon();
    let seconds = limit.as_secs_f64();
    state.set_hung(format!(
        "a batch has not completed within {seconds} s; the device hangs"
    ));
}
