//! Output matrices that several threads write at once.
//!
//! This is the one place where the crate shares writable memory between threads. The rule: a `&mut` slice covers
//! elements of one task only. A task that writes some columns of some rows gets an [`OutputTile`], which hands out one
//! row at a time, or a raw pointer for a micro-kernel that stores to those columns; it never makes a slice from the
//! first of its elements to the last, since the elements between belong to other tasks.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed to several tasks.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by unsafe functions alone, whose callers promise that parts in use do not overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrowed: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other part that is in use at the same time has an element of `range`.
    ///
    /// # Panics
    /// If the range is not within the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice, which is borrowed for as long as `self` lives; no overlap by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// The part of a matrix where a tile is stored: `columns` values of each row of a row-major matrix, rows `stride`
/// values apart.
pub struct OutputTile<'a> {
    /// The first value of the first row.
    start: *mut f32,
    /// Values of the matrix from `start` on.
    len: usize,
    stride: usize,
    columns: usize,
    borrowed: PhantomData<&'a mut f32>,
}

impl<'a> OutputTile<'a> {
    /// The tile that begins at `first` in a matrix that nothing else uses meanwhile.
    ///
    /// # Panics
    /// If `first` is beyond the matrix.
    #[inline(always)]
    pub fn new(matrix: &'a mut [f32], first: usize, stride: usize, columns: usize) -> Self {
        let matrix = &mut matrix[first..];
        Self {
            start: matrix.as_mut_ptr(),
            len: matrix.len(),
            stride,
            columns,
            borrowed: PhantomData,
        }
    }

    /// The tile that begins at `first` in a shared matrix.
    ///
    /// # Safety
    /// While this lives, nothing else reads or writes these columns of the rows that are written.
    ///
    /// # Panics
    /// If `first` is beyond the matrix.
    #[inline(always)]
    pub unsafe fn shared(matrix: &'a Disjoint<'_, f32>, first: usize, stride: usize, columns: usize) -> Self {
        assert!(first <= matrix.len);
        Self {
            // Within the matrix, or its end.
            start: matrix.start.wrapping_add(first),
            len: matrix.len - first,
            stride,
            columns,
            borrowed: PhantomData,
        }
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// A pointer to the first value. The first `columns` values of each of `rows` rows, `stride` apart, may be written
    /// through it.
    ///
    /// # Panics
    /// If the matrix has fewer rows.
    #[inline(always)]
    pub fn pointer(&mut self, rows: usize) -> *mut f32 {
        assert!(rows > 0 && self.holds(rows - 1));
        self.start
    }

    /// The values of row `index`.
    ///
    /// # Panics
    /// If the matrix has fewer rows.
    #[inline(always)]
    pub fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(self.holds(index));
        // SAFETY: within the matrix; these columns belong to this tile (see `shared`), and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.stride), self.columns) }
    }

    #[inline(always)]
    fn holds(&self, row: usize) -> bool {
        let start = row.checked_mul(self.stride);
        start.is_some_and(|start| start <= self.len && self.columns <= self.len - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads write neighbouring columns of the same rows, each through slices and through the pointer. Miri and
    /// ThreadSanitizer report an overlap.
    #[test]
    fn neighbouring_columns_are_written_at_once() {
        const COLUMNS: usize = 3;
        let mut matrix = vec![0.0; 4 * 2 * COLUMNS];
        let shared = Disjoint::new(&mut matrix);
        let write = |part: usize| {
            // SAFETY: each part has its own columns.
            let mut tile = unsafe { OutputTile::shared(&shared, part * COLUMNS, 2 * COLUMNS, COLUMNS) };
            for row in 0..2 {
                tile.row(row).fill((1 + part) as f32);
            }
            let start = tile.pointer(4);
            for row in 2..4 {
                for column in 0..COLUMNS {
                    // SAFETY: four rows are there, and these are columns of the tile.
                    unsafe { start.add(row * 2 * COLUMNS + column).write((1 + part) as f32) };
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| write(0));
            scope.spawn(|| write(1));
        });
        for row in matrix.chunks(2 * COLUMNS) {
            assert_eq!(row, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        }
    }

    #[test]
    fn rows_beyond_the_matrix_are_refused() {
        let mut matrix = [0.0; 10];
        let mut tile = OutputTile::new(&mut matrix, 1, 4, 2);
        assert_eq!(tile.row(1).len(), 2);
        let beyond = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tile.row(2).len()));
        assert!(beyond.is_err());
        let beyond = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tile.pointer(3)));
        assert!(beyond.is_err());
    }
}
