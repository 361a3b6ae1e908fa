//! The safe face of the `gemm` crate: a product of strided matrices over checked slices.

/// A matrix inside a slice: entry `(r, c)` is at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` adjacent values, `row_stride` values apart.
    ///
    /// # Panics
    /// When the last entry would lie beyond the slice.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && columns > 0 && row_stride >= columns);
        assert!((rows - 1) * row_stride + columns <= values.len());
        Self {
            values,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// The same entries with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Writes `factor · a · b` into `out`, whose rows are `out_stride` values apart.
///
/// # Panics
/// When the inner sizes differ, or `out` is too small.
#[allow(unsafe_code)]
pub fn product(a: Matrix<'_>, b: Matrix<'_>, factor: f32, out: &mut [f32], out_stride: usize, threads: usize) {
    assert_eq!(a.columns, b.rows);
    assert!(out_stride >= b.columns && (a.rows - 1) * out_stride + b.columns <= out.len());
    let parallelism = match threads {
        0 | 1 => gemm::Parallelism::None,
        n => gemm::Parallelism::Rayon(n),
    };
    // SAFETY: both inputs were checked by `Matrix::new` to lie within their slices, the output is checked
    // above; `out` is a unique borrow, so it overlaps neither; `read_dst` is false, so `out` is only written.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
