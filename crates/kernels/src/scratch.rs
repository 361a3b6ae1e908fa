//! Buffers that a thread keeps from one call to the next.

use crate::layout::{Line, ZERO_LINE, elements_mut};

/// Grows `buffer` to at least `len` elements and returns the first `len`. Earlier contents stay.
pub fn grow_to<T: Clone>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    &mut buffer[..len]
}

/// Grows `buffer` to at least `len` elements, aligned to cache lines, and returns the first `len`. Earlier contents stay.
pub fn grow_elements(buffer: &mut Vec<Line>, len: usize) -> &mut [u32] {
    &mut elements_mut(grow_to(buffer, len.div_ceil(16), ZERO_LINE))[..len]
}
