//! The memory of requests and answers, counted over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::memory;
use crate::work::WorkPool;

/// After this many bytes were in use and few are left, freed memory goes back to the system.
const GIVE_BACK_BYTES_MIN: usize = 16 << 20;

/// A reservation of up to this many bytes may use the whole limit, a larger one all but [`SMALL_SHARE`] of it, so that
/// large bodies and answers do not keep small ones out.
const SMALL_BYTES: usize = 64 * 1024;

/// Part of the limit that is left to small reservations.
const SMALL_SHARE: usize = 4;

/// A limit on the bytes of all request bodies and answers in memory.
#[derive(Clone)]
pub struct MemoryLimit(Arc<Shared>);

struct Shared {
    max: usize,
    used: AtomicUsize,
    /// The most bytes in use since freed memory was last given back.
    peak: AtomicUsize,
    pool: Arc<WorkPool>,
}

/// Why bytes are not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The limit is reached; another request may free memory at any time.
    #[error("the memory for bodies and answers is used up")]
    Full,
    /// One request would exceed the limit by itself.
    #[error(
        "The request and its answer take more than the {max} bytes that one request may hold in memory; lower top_k, or send fewer or shorter texts."
    )]
    TooLarge { max: usize },
}

/// Bytes that count towards the limit until this is dropped.
pub struct Reservation {
    limit: MemoryLimit,
    bytes: usize,
}

impl MemoryLimit {
    /// A limit of `max` bytes. Threads of `pool` give freed memory back to the system.
    pub fn new(max: usize, pool: Arc<WorkPool>) -> Self {
        Self(Arc::new(Shared {
            max,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            pool,
        }))
    }

    /// The limit in bytes.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Bytes that are reserved.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// As of [`Reservation::grow`].
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, MemoryError> {
        let mut reservation = Reservation {
            limit: self.clone(),
            bytes: 0,
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reservation").field(&self.bytes).finish()
    }
}

impl Reservation {
    /// Reserves `bytes` more.
    ///
    /// # Errors
    /// [`MemoryError`] if that exceeds the limit, or the part of it for a reservation of this size; what was reserved
    /// stays reserved.
    pub fn grow(&mut self, bytes: usize) -> Result<(), MemoryError> {
        let Shared { max, used, peak, .. } = &*self.limit.0;
        let sum = self.bytes.saturating_add(bytes);
        let max = match sum <= SMALL_BYTES {
            true => *max,
            false => max - max / SMALL_SHARE,
        };
        if sum > max {
            return Err(MemoryError::TooLarge { max });
        }
        let add = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= max);
        let before = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let before = before.map_err(|_| MemoryError::Full)?;
        peak.fetch_max(before + bytes, Ordering::Relaxed);
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.limit.0.used.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
        let Shared { used, peak, pool, .. } = &*self.limit.0;
        let used = used.load(Ordering::Relaxed);
        if used < GIVE_BACK_BYTES_MIN / 8 && peak.load(Ordering::Relaxed) >= GIVE_BACK_BYTES_MIN {
            peak.store(used, Ordering::Relaxed);
            // The memory of the reservation is freed in this moment, or was before.
            pool.run_when_idle(memory::give_back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: usize) -> MemoryLimit {
        MemoryLimit::new(max, Arc::new(WorkPool::start(1).unwrap()))
    }

    #[test]
    fn reservations_share_the_limit_and_give_it_back() {
        let limit = limit(100);
        let mut first = limit.reserve(60).unwrap();
        assert_eq!(limit.reserve(41).unwrap_err(), MemoryError::Full);
        let second = limit.reserve(40).unwrap();
        assert_eq!(first.grow(1), Err(MemoryError::Full));
        assert_eq!(limit.used(), 100);
        drop(second);
        first.grow(10).unwrap();
        assert_eq!(limit.used(), 70);
        first.shrink_to(5);
        assert_eq!(limit.used(), 5);
        first.shrink_to(50);
        assert_eq!(limit.used(), 5, "shrinking never grows");
        drop(first);
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn large_reservations_leave_a_part_to_small_ones() {
        let limit = limit(16 * SMALL_BYTES);
        let mut large = limit.reserve(12 * SMALL_BYTES).unwrap();
        assert_eq!(large.grow(1), Err(MemoryError::TooLarge { max: 12 * SMALL_BYTES }));
        assert_eq!(limit.reserve(SMALL_BYTES + 1).unwrap_err(), MemoryError::Full);
        let mut small: Vec<_> = (0..4).map(|_| limit.reserve(SMALL_BYTES).unwrap()).collect();
        assert_eq!(limit.reserve(1).unwrap_err(), MemoryError::Full);
        small[0].shrink_to(0);
        drop(large);
        small[1].grow(8 * SMALL_BYTES).unwrap();
    }

    #[test]
    fn a_number_of_bytes_that_overflows_is_refused() {
        let limit = limit(100);
        let _some = limit.reserve(1).unwrap();
        assert!(matches!(limit.reserve(usize::MAX), Err(MemoryError::TooLarge { .. })));
    }
}
