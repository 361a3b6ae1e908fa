//! Ids for requests and internal errors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A new id: microseconds since 1970 and a counter, both hexadecimal. Unique in this process, and across restarts.
pub fn unique_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.map_or(0, |time| time.as_micros() as u64);
    format!("{micros:x}-{:x}", COUNT.fetch_add(1, Ordering::Relaxed))
}
