//! The memory of packed weights: large chunks, in huge pages where the system has them.
//!
//! A forward pass reads every weight once or a few times. In pages of 4 KiB that is a page walk for each page, which the
//! CPU cannot overlap with enough of the reads. The weights of several layers share a chunk, since one weight is often
//! smaller than a huge page.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::layout::Line;

/// Bytes of a huge page, and alignment of a chunk.
const HUGE_PAGE: usize = 2 * 1024 * 1024;
/// Bytes of a chunk, unless a weight is larger. What no weight uses is never touched, so the system does not back it.
const CHUNK_BYTES: usize = 64 * 1024 * 1024;

/// The chunk that the next weight goes to, if it fits, and the lines in use there. It lives as long as a weight in it.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

/// Lines that never change.
pub struct WeightLines {
    chunk: Arc<Chunk>,
    /// The first line in the chunk.
    start: usize,
    len: usize,
}

struct Chunk {
    memory: NonNull<Line>,
    lines: usize,
}

// SAFETY: a chunk owns its memory. Each part of it is written once, before the `WeightLines` that reads it exists.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(lines: usize) -> Self {
        let layout = Self::layout(lines);
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(memory) = NonNull::new(memory.cast::<Line>()) else {
            handle_alloc_error(layout)
        };
        #[cfg(target_os = "linux")]
        // A system without huge pages refuses; the memory is as good, only slower.
        //
        // SAFETY: advice about memory of this allocation, which changes none of its contents.
        unsafe {
            libc::madvise(memory.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE);
        }
        Self { memory, lines }
    }

    fn layout(lines: usize) -> Layout {
        let bytes = (lines * size_of::<Line>()).next_multiple_of(HUGE_PAGE);
        Layout::from_size_align(bytes, HUGE_PAGE).expect("weights that fit into memory")
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.memory.as_ptr().cast(), Self::layout(self.lines)) }
    }
}

impl WeightLines {
    /// Copies `lines`.
    pub fn new(lines: &[Line]) -> Self {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (weak, used) = &mut *current;
        let fitting = weak.upgrade().filter(|chunk| lines.len() <= chunk.lines - *used);
        let chunk = fitting.unwrap_or_else(|| {
            let chunk = Arc::new(Chunk::new(lines.len().max(CHUNK_BYTES / size_of::<Line>())));
            (*weak, *used) = (Arc::downgrade(&chunk), 0);
            chunk
        });
        let start = *used;
        *used += lines.len();
        // SAFETY: these lines are within the chunk, and no other weight has or will get them. They do not overlap with a
        // slice, since no slice covers lines of a chunk that are not in use.
        unsafe { std::ptr::copy_nonoverlapping(lines.as_ptr(), chunk.memory.as_ptr().add(start), lines.len()) };
        Self {
            chunk,
            start,
            len: lines.len(),
        }
    }
}

impl Deref for WeightLines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: within the chunk, initialized by `new`, and never written again.
        unsafe { std::slice::from_raw_parts(self.chunk.memory.as_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize, value: u32) -> Vec<Line> {
        vec![Line([value; 16]); count]
    }

    #[test]
    fn weights_share_a_chunk_and_keep_their_values() {
        let large = CHUNK_BYTES / size_of::<Line>() + 1;
        let sizes = [1, 100, large - 2, 7, large, 3];
        let weights: Vec<WeightLines> = sizes
            .iter()
            .zip(1..)
            .map(|(&size, value)| WeightLines::new(&lines(size, value)))
            .collect();
        for ((weight, size), value) in weights.iter().zip(sizes).zip(1..) {
            assert!(weight.len() == size && weight.iter().all(|line| line.0 == [value; 16]));
            assert!(weight.as_ptr().addr().is_multiple_of(align_of::<Line>()));
        }
        let same = |a: usize, b: usize| Arc::ptr_eq(&weights[a].chunk, &weights[b].chunk);
        // Other tests may have put weights between these.
        assert!(!same(0, 4) && !same(2, 4));
    }

    #[test]
    fn a_chunk_ends_with_its_last_weight() {
        // A weight of a chunk's size has one of its own.
        let weight = WeightLines::new(&lines(CHUNK_BYTES / size_of::<Line>(), 8));
        let chunk = Arc::downgrade(&weight.chunk);
        drop(weight);
        // Another test may look at the moment whether a weight fits.
        let has_ended = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            chunk.upgrade().is_none()
        });
        assert!(has_ended);
    }
}
