//! The place of a request, and its share of the memory for parsing and tokenizing.

use cloze_queue::{FairSemaphore, Permits};

use super::Error;
use crate::engine;

/// A request of up to this many bytes needs no share.
const SMALL_BYTES: usize = 1024;

/// Memory of parsed JSON for each byte of a body: a string of one letter takes 32 bytes and four characters.
const PARSED_BYTES_PER_BYTE: usize = 16;

/// Memory of a text that is split into words, for each byte: a word of one letter takes some 500 bytes.
const WORDS_BYTES_PER_BYTE: usize = 512;

/// Memory for each core, and the cores that count.
const BYTES_PER_CORE: usize = 32 << 20;
const CORES_MAX: usize = 16;

const UNIT: usize = 1024;

/// An admitted request.
#[derive(Debug)]
pub struct Admission {
    pub(super) place: engine::Admission,
    /// Given back when the request is planned.
    share: Option<Permits>,
}

impl Admission {
    pub(super) fn new(place: engine::Admission) -> Self {
        Self { place, share: None }
    }

    /// Completes when another request has taken the place.
    pub async fn displaced(&self) {
        self.place.displaced().await;
    }

    /// Keeps the place: the request has arrived whole.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if another request has taken the place.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.place.settle().map_err(|_| Error::Overloaded)
    }
}

/// Limits the memory of all requests that are parsed and tokenized at a time. Large ones wait for each other and take
/// turns by their size; small ones do not wait.
pub struct PlanningMemory {
    free: FairSemaphore,
    units: usize,
    text_bytes_max: usize,
}

impl PlanningMemory {
    /// For texts of `text_bytes_max` bytes at most.
    pub fn new(cores: usize, text_bytes_max: usize) -> Self {
        let units = cores.clamp(1, CORES_MAX) * BYTES_PER_CORE / UNIT;
        Self {
            free: FairSemaphore::new(units),
            units,
            text_bytes_max,
        }
    }

    /// Waits for the share of a request with a body of `bytes` bytes.
    pub async fn take(&self, admission: &mut Admission, bytes: usize) {
        if bytes <= SMALL_BYTES {
            return;
        }
        let units = self.units_of(bytes);
        admission.share = Some(self.free.take(units, units).await);
    }

    /// The share of a request with a body of `bytes` bytes, 0 to 1.
    #[cfg(test)]
    pub fn share_of(&self, bytes: usize) -> f32 {
        self.units_of(bytes) as f32 / self.units as f32
    }

    fn units_of(&self, bytes: usize) -> usize {
        let parsed = bytes.saturating_mul(PARSED_BYTES_PER_BYTE);
        let words = bytes.min(self.text_bytes_max) * WORDS_BYTES_PER_BYTE;
        (parsed.saturating_add(words) / UNIT).min(self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_with_the_body_and_never_exceeds_the_whole() {
        let memory = PlanningMemory::new(2, 64 * 1024);
        assert_eq!(memory.units, 64 * 1024);
        assert_eq!(memory.units_of(32 * 1024), 16 * 1024 + 512);
        assert_eq!(memory.units_of(1 << 20), 32 * 1024 + 16 * 1024);
        assert_eq!(memory.units_of(usize::MAX), 64 * 1024);
        let long_texts = PlanningMemory::new(4, 128 * 1024);
        assert_eq!(long_texts.units_of(128 * 1024), 64 * 1024 + 2 * 1024);
    }
}
