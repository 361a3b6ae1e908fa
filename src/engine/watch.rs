//! A batch that never comes back. A device that hangs tells nobody, and who waits for it cannot be interrupted, so somebody
//! else looks at the clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::Queue;

const NO_PANIC: &str = "nobody panics while holding a clock";

/// Since when one worker waits for its model.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Running>>);

#[derive(Clone, Copy, Debug)]
struct Running {
    /// Batches that have begun and not ended.
    batches: usize,
    /// When the first of them began, or the one before it ended: a device computes one after the other.
    since: Instant,
}

impl Clock {
    /// A batch begins; it ends when what is given is dropped.
    pub fn begin(self: &Arc<Self>) -> Ends {
        let mut running = self.0.lock().expect(NO_PANIC);
        let (batches, since) = running.map_or((0, Instant::now()), |running| (running.batches, running.since));
        *running = Some(Running {
            batches: batches + 1,
            since,
        });
        Ends(Arc::clone(self))
    }

    /// Since when the batch that should end next has been computed.
    pub fn since(&self) -> Option<Instant> {
        self.0.lock().expect(NO_PANIC).map(|running| running.since)
    }
}

/// A batch that runs.
pub struct Ends(Arc<Clock>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut running = self.0.0.lock().expect(NO_PANIC);
        *running = running.filter(|running| running.batches > 1).map(|running| Running {
            batches: running.batches - 1,
            since: Instant::now(),
        });
    }
}

/// Waits until a batch has taken `limit`, and gives up for all: what waits is refused, and whoever waits for a batch is told that it
/// failed. Completes before that when the engine ends.
pub async fn watch(queue: &Queue, limit: Duration) {
    let stats = &queue.stats;
    loop {
        let now = Instant::now();
        // What begins meanwhile has not taken so long by then.
        let overdue_at = stats.running_since().unwrap_or(now) + limit;
        if overdue_at <= now {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(overdue_at) => {}
            _ = stats.stopping().wait() => return,
        }
    }
    let seconds = limit.as_secs_f64();
    queue.abandon();
    stats.hang(format!(
        "the device has not come back with a batch for {seconds} s; it hangs"
    ));
}
