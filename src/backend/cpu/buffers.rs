//! Buffer reuse: an operation writes its result into a buffer that an earlier one consumed. Fresh memory would be
//! zeroed by the system page by page.

use std::cell::RefCell;

use burn_ndarray::SharedArray;

/// Buffers kept for each thread: as many as a layer has results at once.
const SPARES_MAX: usize = 4;

thread_local! {
    static SPARES: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `len` values, which are unspecified.
pub fn take(len: usize) -> Vec<f32> {
    let spare = SPARES.with_borrow_mut(|spares| {
        let fits = (0..spares.len()).filter(|&index| spares[index].capacity() >= len);
        let best = fits.min_by_key(|&index| spares[index].capacity());
        if best.is_none() {
            // A larger one takes its place; otherwise growing batches would leave one of every size.
            let largest = (0..spares.len()).max_by_key(|&index| spares[index].capacity());
            largest.map(|index| spares.swap_remove(index));
        }
        best.map(|index| spares.swap_remove(index))
    });
    match spare {
        Some(mut buffer) => {
            buffer.resize(len, 0.0);
            buffer
        }
        None => vec![0.0; len],
    }
}

/// Keeps the memory of `array`, unless another tensor shares it.
pub fn give_back(array: SharedArray<f32>) {
    let Ok(array) = array.try_into_owned_nocopy() else {
        return;
    };
    let (buffer, _) = array.into_raw_vec_and_offset();
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARES_MAX {
            return spares.push(buffer);
        }
        let smallest = spares.iter_mut().min_by_key(|spare| spare.capacity());
        if let Some(smallest) = smallest.filter(|smallest| smallest.capacity() < buffer.capacity()) {
            *smallest = buffer;
        }
    });
}

#[cfg(test)]
mod tests {
    use ndarray::{ArcArray, IxDyn};

    use super::*;

    fn array(len: usize) -> SharedArray<f32> {
        ArcArray::from_shape_vec(IxDyn(&[len]), vec![0.0; len]).unwrap()
    }

    fn spares() -> Vec<usize> {
        SPARES.with_borrow(|spares| spares.iter().map(Vec::capacity).collect())
    }

    #[test]
    fn the_smallest_that_fits_is_taken() {
        for len in [10, 30, 20] {
            give_back(array(len));
        }
        assert_eq!(take(11).len(), 11);
        assert_eq!(spares(), [10, 30]);
        // Where none does, a new one takes the largest's place.
        assert_eq!(take(31).len(), 31);
        assert_eq!(spares(), [10]);
    }

    #[test]
    fn a_shared_array_is_not_kept_and_the_largest_are() {
        let held = array(50);
        give_back(held.clone());
        assert_eq!(spares(), [0; 0]);
        for len in [1, 2, 3, 4, 5, 1] {
            give_back(array(len));
        }
        assert_eq!(spares(), [5, 2, 3, 4]);
        drop(held);
    }
}
