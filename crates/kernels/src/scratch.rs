//! Buffers that a thread keeps from one call to the next.

/// Grows `buffer` to at least `len` elements and returns the first `len`. Earlier contents stay.
pub fn grow_to<T: Clone>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    &mut buffer[..len]
}
